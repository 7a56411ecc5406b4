/** The table of groups, and of the gaps between them. */

import * as format from "./format.js";

/** Show `rows` (see history.js) in a table's body. */
export function showRows(body, rows) {
  body.replaceChildren(...rows.map((row) => ("sequence" in row ? groupRow(row) : gapRow(row))));
}

function groupRow(group) {
  const row = document.createElement("tr");
  const frames = format.formatInteger(group.frames);
  const cells = [
    format.formatInteger(group.sequence),
    format.formatTime(group.time, { precise: true }),
    group.state === "complete" ? frames : `${frames} (${group.state})`,
    format.formatBytes(group.bytes),
    format.formatRate(group.rate),
  ];
  row.dataset.sequence = group.sequence;
  row.append(...cells.map(cell));
  return row;
}

function gapRow({ start, end, code }) {
  const row = document.createElement("tr");
  row.className = "gap";
  const which = end - start === 1 ? `Group ${start} is` : `Groups ${start} to ${end - 1} are`;
  const why = code === 0 ? "not there any more" : `not to be had (code ${code})`;
  const only = cell(`${which} ${why}.`);
  only.colSpan = 5;
  row.append(only);
  return row;
}

function cell(text) {
  const element = document.createElement("td");
  element.textContent = text;
  return element;
}
