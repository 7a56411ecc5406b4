/** The page: joins the connection, the player and what is shown of them. */

import { Charts } from "./chart.js";
import * as format from "./format.js";
import { GroupHistory, Rates } from "./history.js";
import { keepConnected } from "./link.js";
import { Player } from "./player.js";
import { showRows } from "./table.js";
import { Telemetry } from "./telemetry.js";

/** Seconds of the track that are drawn. */
const WINDOW = 60;
const MOST_ROWS = 100;
const MOST_BROADCASTS = 200;
const TEXT_INTERVAL = 500;
const CALM_INTERVAL = 1000;
const CHART_INTERVAL = 100;
const SEEK_DELAY = 300;

const STATES = {
  connecting: "Connecting",
  connected: "Connected",
  waiting: "Connecting again",
  failed: "Not connected",
};
const MODES = { live: "Live", replay: "Replay", paused: "Paused", ended: "Ended" };

const find = (id) => document.getElementById(id);
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

const history = new GroupHistory();
const rates = new Rates();
const telemetry = new Telemetry(WINDOW);
const charts = new Charts(find("charts"), WINDOW);
const form = find("source");
const seek = find("seek");

let player;
let watching = new AbortController();
let currentSession;
let shouldShow = true;
let isSeeking = false;
let seekTimer;

const listener = {
  clear() {
    showProblem("", "");
    history.clear();
    telemetry.clear();
    charts.hideCursor();
    shouldShow = true;
  },
  changed() {
    shouldShow = true;
    showMode();
  },
  problem(text) {
    showProblem(text, "");
  },
  group(sequence) {
    history.begin(sequence);
    rates.add("groups", 1);
    shouldShow = true;
  },
  frame(sequence, frame) {
    history.addFrame(sequence, frame);
    telemetry.add(frame);
    rates.add("frames", 1);
    rates.add("bytes", frame.payload.length);
    shouldShow = true;
  },
  groupEnd(sequence, complete) {
    history.end(sequence, complete);
    shouldShow = true;
  },
  gap(gap) {
    history.addGap(gap);
    shouldShow = true;
  },
};

/* What is shown. Texts change at most twice a second, so that they can be read. */

function setText(id, text) {
  const element = find(id);
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

function showState(state, problem) {
  document.body.dataset.state = state;
  setText("status", STATES[state]);
  if (problem) {
    showProblem(problem.message, problem.advice);
  } else if (state === "connected") {
    showProblem("", "");
  }
}

function showProblem(text, advice) {
  setText("problem-text", text);
  setText("problem-advice", advice);
  find("problem").hidden = !text;
}

function showMode() {
  const { mode } = player;
  find("mode").dataset.mode = mode;
  setText("mode", MODES[mode]);
  setText("pause", mode === "paused" ? "Play" : "Pause");
  find("pause").disabled = mode === "ended";
  find("live").disabled = mode === "live";
  for (const button of document.querySelectorAll("[data-back]")) {
    button.disabled = false;
  }
}

function showTexts() {
  const { groups, frames, bytes } = rates.perSecond();
  setText("position", format.formatInteger(player.position));
  setText("group-rate", groups.toFixed(1));
  setText("frame-rate", frames.toFixed(1));
  setText("byte-rate", format.formatRate(bytes));
  setText("behind", describeDistance());
}

/** How far what is shown is behind the live edge, where that is not obvious. */
function describeDistance() {
  if (player.mode !== "replay" && player.mode !== "paused") {
    return "";
  }
  const shown = telemetry.latest;
  if (shown !== undefined && format.isTimeOfDay(shown)) {
    return `${format.formatDuration(Date.now() / 1000 - shown)} behind live`;
  }
  const groups = (player.edge ?? 0) - (player.position ?? player.edge ?? 0);
  return `${format.formatInteger(groups)} groups behind live`;
}

function showSeek() {
  const { oldest, edge, position } = player;
  seek.disabled = oldest === undefined || edge === undefined;
  if (seek.disabled) {
    return;
  }
  seek.min = oldest;
  seek.max = Math.max(edge, oldest);
  setText("seek-oldest", `oldest: group ${format.formatInteger(oldest)}`);
  setText("seek-edge", `live: group ${format.formatInteger(edge)}`);
  if (isSeeking) {
    return;
  }
  seek.value = player.mode === "live" ? seek.max : (position ?? seek.value);
  setText("seek-here", "");
  if (document.activeElement !== seek) {
    seek.setAttribute("aria-valuetext", describeSeek()); // else it would be read aloud again and again
  }
}

function showCharts() {
  const { latest } = telemetry;
  find("charts-empty").hidden = latest !== undefined;
  if (latest === undefined) {
    return;
  }
  charts.draw(telemetry.panels(), latest);
  const { cursor } = charts;
  setText(
    "cursor-time",
    cursor === undefined
      ? "Point at a curve, or use the arrow keys."
      : `Values at ${format.formatTime(cursor, { precise: true })}`,
  );
}

/** Draw what has changed: the curves often, unless motion is not wanted, the texts rarely. */
function runDisplay() {
  let textsAt = 0;
  let chartsAt = 0;
  const step = (now) => {
    if (player && shouldShow && now >= chartsAt) {
      chartsAt = now + (calm.matches ? CALM_INTERVAL : CHART_INTERVAL);
      shouldShow = false;
      showCharts();
    }
    if (player && now >= textsAt) {
      textsAt = now + (calm.matches ? CALM_INTERVAL : TEXT_INTERVAL);
      showTexts();
      showSeek();
      showRows(find("groups"), history.rows().slice(0, MOST_ROWS));
    }
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

/* What the person does. */

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const query = new URLSearchParams(new FormData(form));
  window.history.replaceState(null, "", `?${query}`);
  watch();
});

find("pause").addEventListener("click", () => {
  if (player.mode === "paused") {
    player.play();
  } else {
    player.pause();
  }
});

find("live").addEventListener("click", () => player.goLive());

for (const button of document.querySelectorAll("[data-back]")) {
  button.addEventListener("click", () => {
    player.goBack(Number(button.dataset.back), telemetry.latest ?? Date.now() / 1000);
  });
}

find("speed").addEventListener("change", (event) => {
  player.speed = Number(event.target.value);
});

// Arrow keys send many changes: the last of them counts.
seek.addEventListener("input", () => {
  isSeeking = true;
  const text = describeSeek();
  setText("seek-here", text);
  seek.setAttribute("aria-valuetext", text);
});

// Where it is let go where it was taken, nothing has changed.
seek.addEventListener("pointerup", () => {
  isSeeking = false;
});

seek.addEventListener("change", () => {
  isSeeking = true;
  clearTimeout(seekTimer);
  seekTimer = setTimeout(() => {
    isSeeking = false;
    if (seek.value === seek.max) {
      player.goLive();
    } else {
      player.goTo(Number(seek.value));
    }
  }, SEEK_DELAY);
});

function describeSeek() {
  return seek.value === seek.max ? "live" : `group ${format.formatInteger(Number(seek.value))}`;
}

find("charts").addEventListener("pointermove", (event) => {
  if (event.target instanceof HTMLCanvasElement) {
    charts.pointAt(event.clientX, event.target);
    shouldShow = true;
  }
});

find("charts").addEventListener("pointerleave", () => {
  charts.hideCursor();
  shouldShow = true;
});

find("charts").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
  if (step !== undefined) {
    event.preventDefault();
    charts.moveCursor(step);
  } else if (event.key === "Escape") {
    charts.hideCursor();
  }
  shouldShow = true;
});

for (const query of ["(prefers-color-scheme: dark)", "(prefers-reduced-motion: reduce)"]) {
  window.matchMedia(query).addEventListener("change", () => {
    shouldShow = true;
  });
}
window.addEventListener("resize", () => {
  shouldShow = true;
});

/* What is watched. */

/** Watch the track the form names, from now on. */
function watch() {
  const broadcast = form.elements.broadcast.value;
  const track = form.elements.track.value;
  if (!broadcast || !track) {
    return;
  }
  watching.abort();
  watching = new AbortController();
  listener.clear();
  player = new Player(broadcast, track, { window: WINDOW, listener });
  player.speed = Number(find("speed").value);
  setText("player-title", `${broadcast} / ${track}`);
  document.title = `${broadcast} / ${track} – moqtrio`;
  showMode();
  if (currentSession) {
    player.run(currentSession, watching.signal);
  }
}

async function useSession(session) {
  currentSession = session;
  session.closed.then(() => {
    currentSession = undefined;
  });
  listBroadcasts(session).catch(() => {}); // only suggestions
  if (player) {
    await player.run(session, watching.signal);
  }
}

async function listBroadcasts(session) {
  const paths = new Set();
  for await (const { path, active } of session.announced()) {
    if (!active) {
      paths.delete(path);
    } else if (paths.size < MOST_BROADCASTS) {
      paths.add(path);
    }
    const options = [...paths].sort().map((path) => new Option(path, path));
    find("broadcasts").replaceChildren(...options);
  }
}

/** The track to begin with: as the address says, else as the server does. */
async function chooseTrack() {
  const query = new URLSearchParams(location.search);
  let chosen = { broadcast: query.get("broadcast"), track: query.get("track") };
  if (!chosen.broadcast || !chosen.track) {
    const response = await fetch("/stream.json").catch(() => undefined);
    chosen = response?.ok ? await response.json() : chosen;
  }
  form.elements.broadcast.value = chosen.broadcast ?? "";
  form.elements.track.value = chosen.track ?? "";
}

await chooseTrack();
watch();
runDisplay();
await keepConnected({ use: useSession, tell: showState, signal: new AbortController().signal });
