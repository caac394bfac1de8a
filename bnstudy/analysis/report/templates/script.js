"use strict";
const root = document.documentElement, button = document.getElementById("theme"), modes = ["system", "light", "dark"];
const remembered = { get() { try { return localStorage.getItem("bnstudy-theme"); } catch { return null; } },
  set(mode) { try { localStorage.setItem("bnstudy-theme", mode); } catch { /* a page from a file may have no storage */ } } };
function show(mode) {
  if (mode === "system") delete root.dataset.theme; else root.dataset.theme = mode;
  button.textContent = `Theme: ${mode}`;
  button.setAttribute("aria-label", `Colour scheme: ${mode === "system" ? "as the system" : mode}`);
}
let mode = modes.includes(remembered.get()) ? remembered.get() : "system";
show(mode);
button.addEventListener("click", () => {
  mode = modes[(modes.indexOf(mode) + 1) % modes.length];
  remembered.set(mode);
  show(mode);
});
const words = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table[data-table]")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const numeric = head.classList.contains("number");
    const key = (row) => numeric ? Number(row.cells[column].dataset.key ?? NaN) : row.cells[column].textContent;
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (!numeric) return sign * words.compare(a, b);
      const gone = Number.isNaN(a) - Number.isNaN(b); // rows without a number stand last, whichever the direction
      return gone || (Number.isNaN(a) ? 0 : sign * (a - b));
    });
    body.append(...rows.map(([, row]) => row));
  }));
  const field = document.querySelector(`input[data-filter="${table.dataset.table}"]`);
  const count = field.parentElement.querySelector(".count"), all = body.rows.length;
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
      if (!row.hidden) shown += 1;
    }
    count.textContent = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
  });
}
