/** Panels of curves over the same stretch of time, with one cursor for all of them. */

import { formatBytes, formatPercent, formatRate, formatTime } from "./format.js";

const PADDING = { top: 8, right: 8, bottom: 20, left: 64 };
const TICK_SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
const TICK_WIDTH = 90;
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]];
/** A longer pause between two points is a hole in the curve. */
const HOLE = 2;
/** What the axis of bytes shows at least. */
const LOWEST_TOP = 1000;

/** The panels in `container`, made anew whenever the track has others. */
export class Charts {
  #container;
  #panels = [];
  #window;
  #end;
  #cursor;

  constructor(container, window) {
    this.#container = container;
    this.#window = window;
  }

  /** Draw `panels` (see telemetry.js) for the `window` seconds before `end`. */
  draw(panels, end) {
    this.#end = end;
    if (panels.map(describe).join() !== this.#panels.map((panel) => panel.description).join()) {
      this.#panels = panels.map((panel) => new Panel(panel));
      this.#container.replaceChildren(...this.#panels.map((panel) => panel.element));
    }
    const range = { start: end - this.#window, end };
    const theme = readTheme(this.#container);
    for (const [index, panel] of panels.entries()) {
      this.#panels[index].draw(panel, range, theme, this.#cursor);
    }
  }

  /** The time the cursor is at, if it is anywhere. */
  get cursor() {
    return this.#cursor;
  }

  hideCursor() {
    this.#cursor = undefined;
  }

  /** Put the cursor under a pointer. */
  pointAt(clientX, canvas) {
    const { left, width } = canvas.getBoundingClientRect();
    const share = (clientX - left - PADDING.left) / (width - PADDING.left - PADDING.right);
    this.#setCursor(this.#end - this.#window * (1 - share));
  }

  moveCursor(seconds) {
    this.#setCursor((this.#cursor ?? this.#end) + seconds);
  }

  #setCursor(time) {
    if (this.#end !== undefined) {
      this.#cursor = Math.min(Math.max(time, this.#end - this.#window), this.#end);
    }
  }
}

function describe(panel) {
  return [panel.title, ...panel.curves.map((curve) => curve.label)].join("|");
}

function readTheme(element) {
  const style = getComputedStyle(element);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    font: `12px ${style.fontFamily}`,
    text: read("--muted"),
    grid: read("--line"),
    cursor: read("--text"),
    curves: DASHES.map((_, index) => read(`--curve-${index + 1}`)),
  };
}

/** One set of axes, and above it what its curves are and say. */
class Panel {
  #canvas = document.createElement("canvas");
  #values = [];
  #width = 0;
  #height = 0;

  constructor(panel) {
    this.description = describe(panel);
    this.element = document.createElement("figure");
    this.element.append(this.#makeCaption(panel), this.#canvas);
    this.#canvas.setAttribute("aria-hidden", "true"); // the caption says it in words
    new ResizeObserver(([entry]) => {
      this.#width = entry.contentRect.width;
      this.#height = entry.contentRect.height;
    }).observe(this.#canvas);
  }

  #makeCaption(panel) {
    const caption = document.createElement("figcaption");
    const title = document.createElement("h3");
    title.textContent = panel.title;
    const legend = document.createElement("ul");
    for (const [index, curve] of panel.curves.entries()) {
      const value = document.createElement("b");
      this.#values.push(value);
      const item = document.createElement("li");
      item.className = `curve curve-${index + 1}`;
      item.append(`${curve.label} `, value);
      legend.append(item);
    }
    caption.append(title, legend);
    return caption;
  }

  draw(panel, range, theme, cursor) {
    const curves = panel.curves.map((curve) => curve.points());
    this.#showValues(panel, curves, cursor ?? range.end);
    if (!this.#width) {
      return;
    }
    const context = this.#begin();
    const plot = {
      left: PADDING.left,
      top: PADDING.top,
      width: this.#width - PADDING.left - PADDING.right,
      height: this.#height - PADDING.top - PADDING.bottom,
      ...range,
      highest: panel.top ?? roundUp(findHighest(curves, range)),
    };
    context.font = theme.font;
    drawGrid(context, plot, theme, panel);
    context.save();
    context.beginPath();
    context.rect(plot.left, plot.top - 2, plot.width, plot.height + 4);
    context.clip();
    for (const [index, curve] of curves.entries()) {
      context.strokeStyle = theme.curves[index];
      context.setLineDash(DASHES[index]);
      drawCurve(context, plot, curve);
    }
    context.restore();
    if (cursor !== undefined) {
      drawCursor(context, plot, theme, cursor);
    }
  }

  #begin() {
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.#width * scale), Math.round(this.#height * scale)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
    const context = this.#canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, this.#width, this.#height);
    return context;
  }

  #showValues(panel, curves, time) {
    for (const [index, { times, values }] of curves.entries()) {
      const at = times.findLastIndex((each) => each <= time + 1e-6);
      const text = at < 0 ? "–" : formatValue(panel, values[at]);
      if (this.#values[index].textContent !== text) {
        this.#values[index].textContent = text;
      }
    }
  }
}

function formatValue(panel, value, options) {
  if (panel.unit === "percent") {
    return formatPercent(value);
  }
  return panel.top === undefined ? formatRate(value, options) : formatBytes(value, options);
}

function findHighest(curves, range) {
  let highest = 0;
  for (const { times, values } of curves) {
    for (let index = times.length - 1; index >= 0 && times[index] >= range.start; index -= 1) {
      highest = Math.max(highest, values[index]);
    }
  }
  return highest;
}

/** The next 1, 2 or 5 with zeros after it, so that the axis is read easily and rarely jumps. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, LOWEST_TOP)));
  return power * ([1, 2, 5].find((step) => step * power >= value) ?? 10);
}

function drawGrid(context, plot, theme, panel) {
  context.strokeStyle = theme.grid;
  context.fillStyle = theme.text;
  context.lineWidth = 1;
  context.setLineDash([]);
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const share of [0, 0.5, 1]) {
    const y = Math.round(plot.top + plot.height * (1 - share)) + 0.5;
    drawLine(context, plot.left, y, plot.left + plot.width, y);
    context.fillText(formatValue(panel, plot.highest * share, { round: true }), plot.left - 6, y);
  }
  context.textBaseline = "alphabetic";
  context.textAlign = "center";
  const step = chooseStep(plot);
  for (let time = Math.ceil(plot.start / step) * step; time <= plot.end; time += step) {
    const x = Math.round(toX(plot, time)) + 0.5;
    const half = context.measureText(formatTime(time)).width / 2;
    if (x + half < plot.left + plot.width + PADDING.right && x - half > plot.left - 20) {
      drawLine(context, x, plot.top + plot.height, x, plot.top + plot.height + 4);
      context.fillText(formatTime(time), x, plot.top + plot.height + 17);
    }
  }
}

function chooseStep(plot) {
  const least = ((plot.end - plot.start) * TICK_WIDTH) / plot.width;
  return TICK_SECONDS.find((step) => step >= least) ?? TICK_SECONDS.at(-1);
}

function drawCurve(context, plot, { times, values }) {
  context.lineWidth = 1.75;
  context.lineJoin = "round";
  context.beginPath();
  const first = times.findIndex((time) => time >= plot.start);
  for (let index = Math.max(first - 1, 0); first >= 0 && index < times.length; index += 1) {
    const y = plot.top + plot.height * (1 - values[index] / plot.highest);
    if (index > 0 && times[index] - times[index - 1] < HOLE) {
      context.lineTo(toX(plot, times[index]), y);
    } else {
      context.moveTo(toX(plot, times[index]), y);
    }
  }
  context.stroke();
}

function drawCursor(context, plot, theme, time) {
  context.strokeStyle = theme.cursor;
  context.lineWidth = 1;
  const x = Math.round(toX(plot, time)) + 0.5;
  drawLine(context, x, plot.top, x, plot.top + plot.height);
}

function drawLine(context, fromX, fromY, toX_, toY) {
  context.beginPath();
  context.moveTo(fromX, fromY);
  context.lineTo(toX_, toY);
  context.stroke();
}

function toX(plot, time) {
  return plot.left + (plot.width * (time - plot.start)) / (plot.end - plot.start);
}
