// The table of all groups: sorted by a click on a title, narrowed by typing.

function startTable(data) {
  const home = section("table"), { columns, rows, notes } = data.table;
  const state = { column: null, falling: false, words: "" };
  const body = html("tbody", {}), count = html("span", { class: "note", role: "status" });
  const heads = columns.map((column, index) => html("th", { scope: "col", class: column.name ? "name" : "" },
    html("button", { type: "button", onclick: () => { turn(state, index, columns[index]); draw(); } }, column.title)));
  const draw = () => {
    const shown = sorted(rows, state).filter((row) => matches(row, state.words));
    body.replaceChildren(...shown.map((row) => html("tr", {}, row.cells.map((_, index) => tableCell(row, index, columns[index])))));
    heads.forEach((head, index) => head.setAttribute("aria-sort", order(state, index)));
    count.textContent = shown.length === rows.length ? plural(rows.length, "row") : `${shown.length} of ${rows.length} rows`;
  };
  const search = html("input", { type: "search", size: 18, oninput: () => { state.words = search.value.toLowerCase(); draw(); } });
  home.append(html("div", { class: "controls no-print" }, html("label", {}, html("span", {}, "only rows with"), search), count),
    html("div", { class: "wide", tabindex: "0", role: "region", "aria-labelledby": "table-title" },
      html("table", {}, html("thead", {}, html("tr", {}, heads)), body)),
    html("div", {}, notes.map((note) => say(note))));
  draw();
}

function tableCell(row, index, column) {
  const kinds = [column.name ? "name" : "", row.best.includes(index) ? "best" : ""].join(" ").trim();
  return html("td", { class: kinds || null }, row.cells[index], row.marks[index] ? html("sup", {}, row.marks[index]) : null);
}

const matches = (row, words) => words.split(/\s+/).every((word) => row.cells.join(" ").toLowerCase().includes(word));
const order = (state, index) => (state.column !== index ? "none" : state.falling ? "descending" : "ascending");

// The first click shows the largest numbers, or the first names; the next one turns the order round.
function turn(state, index, column) {
  state.falling = state.column === index ? !state.falling : !column.name;
  state.column = index;
}

function sorted(rows, { column, falling }) {
  if (column === null) return rows;
  const missing = (row) => row.keys[column] === null || row.keys[column] === undefined;
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  return [...rows].sort((a, b) => missing(a) - missing(b)
    || (missing(a) ? 0 : (falling ? -1 : 1) * compare(a.keys[column], b.keys[column])));
}
