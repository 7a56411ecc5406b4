/** Numbers and times as people read them. */

const UNIX_TIMES = 1e9; // since September 2001
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const preciseClock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 2,
  hourCycle: "h23",
});
const integer = new Intl.NumberFormat();
const PREFIXES = ["", "k", "M", "G", "T"];

export function formatInteger(value) {
  return value === undefined ? "–" : integer.format(value);
}

/** A time of day; or, of a publisher whose timestamps are not times of day, seconds. */
export function formatTime(seconds, { precise = false } = {}) {
  if (seconds === undefined) {
    return "–";
  }
  if (seconds < UNIX_TIMES) {
    return `${seconds.toFixed(2)} s`;
  }
  return (precise ? preciseClock : clock).format(seconds * 1000);
}

export function isTimeOfDay(seconds) {
  return seconds >= UNIX_TIMES;
}

/** Bytes in the largest unit; `round` leaves out a decimal that is 0, as axes want it. */
export function formatBytes(bytes, { round = false } = {}) {
  let power = 0;
  while (bytes >= 1000 && power < PREFIXES.length - 1) {
    bytes /= 1000;
    power += 1;
  }
  const digits = power === 0 || bytes >= 100 || (round && Number.isInteger(bytes)) ? 0 : 1;
  return `${bytes.toFixed(digits)} ${PREFIXES[power]}B`;
}

export function formatRate(bytes, options) {
  return bytes === undefined ? "–" : `${formatBytes(bytes, options)}/s`;
}

export function formatPercent(value) {
  return `${value.toFixed(0)} %`;
}

/** How long, in the two largest units that matter. */
export function formatDuration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours) {
    return `${hours} h ${minutes} min`;
  }
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}
