// The table of an atlas: sorting and searching are DataTables', the filters above it are columns'.
"use strict";
for (const atlas of document.querySelectorAll(".atlas")) {
  const table = new DataTable(atlas.querySelector("table.listed"), {
    pageLength: 10,
    order: [],
    language: { search: "search all columns", lengthMenu: `_MENU_ ${atlas.dataset.rows} a page` },
  });
  for (const filter of atlas.querySelectorAll("select[data-column]")) {
    filter.addEventListener("change", () => {
      const exact = filter.value.startsWith("^"); // a whole cell, as a pattern
      table.column(Number(filter.dataset.column)).search(filter.value, exact).draw();
    });
  }
  const rarest = atlas.querySelector("select[data-most]");
  rarest?.addEventListener("change", () => {
    const most = Number(rarest.value) || Infinity;
    const column = table.column(Number(rarest.dataset.most));
    column.search.fixed("density", (percent) => parseFloat(percent) <= most);
    table.draw();
  });
  // The copy buttons of code listen at the body, and would take clicks on DataTables' headers as theirs.
  atlas.addEventListener("click", (event) => event.stopPropagation());
  atlas.querySelector("input[type=search]").dataset.answers = `#${atlas.id} .listing`;
}
