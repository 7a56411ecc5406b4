/** The table of groups, and of the gaps between them. */

import * as format from "./format.js";

/**
 * Show `rows` (see history.js) in a table's body. Rows that stay are kept, and only what has changed
 * in them is touched: somebody may be reading or selecting there.
 */
export function showRows(body, rows) {
  const wanted = new Map(rows.map((row) => [keyOf(row), row]));
  for (const element of [...body.rows]) {
    if (!wanted.has(element.dataset.key)) {
      element.remove();
    }
  }
  const known = new Map(Array.from(body.rows, (element) => [element.dataset.key, element]));
  let place = body.firstElementChild;
  for (const [key, row] of wanted) {
    const element = known.get(key) ?? makeRow(key, row);
    if (element === place) {
      place = place.nextElementSibling;
    } else {
      body.insertBefore(element, place);
    }
    fill(element, isGap(row) ? [describeGap(row)] : describeGroup(row));
  }
}

function isGap(row) {
  return "code" in row;
}

function keyOf(row) {
  return isGap(row) ? `${row.start} to ${row.end}` : String(row.sequence);
}

function makeRow(key, row) {
  const element = document.createElement("tr");
  element.dataset.key = key;
  if (isGap(row)) {
    element.className = "gap";
    element.insertCell().colSpan = 5;
  } else {
    element.dataset.sequence = row.sequence;
    for (let column = 0; column < 5; column += 1) {
      element.insertCell();
    }
  }
  return element;
}

function fill(element, texts) {
  for (const [index, text] of texts.entries()) {
    const cell = element.cells[index];
    if (cell.textContent !== text) {
      cell.textContent = text;
    }
  }
}

function describeGroup(group) {
  const frames = format.formatInteger(group.frames);
  return [
    format.formatInteger(group.sequence),
    format.formatTime(group.time, { precise: true }),
    group.state === "complete" ? frames : `${frames} (${group.state})`,
    format.formatBytes(group.bytes),
    format.formatRate(group.rate),
  ];
}

function describeGap({ start, end, code }) {
  const which = end - start === 1 ? `Group ${start} is` : `Groups ${start} to ${end - 1} are`;
  const why = code === 0 ? "not there" : `not to be had (code 0x${code.toString(16)})`;
  return `${which} ${why}.`;
}
