"use strict";
// Tables with buttons in their column headings: a press sorts by the column, a second one in reverse.
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const numeric = head.dataset.numeric === "true";
    const value = (row) => row.cells[index].dataset.value;
    const compare = (a, b) => (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
    const rows = [...body.rows].sort((first, second) => {
      const [a, b] = [value(first), value(second)];
      return a === "" || b === "" ? (a === "") - (b === "") : sign * compare(a, b); // empty ones stay last
    });
    body.append(...rows);
    heads.forEach((each) => each.setAttribute("aria-sort", each === head ? (sign > 0 ? "ascending" : "descending") : "none"));
  }));
});
