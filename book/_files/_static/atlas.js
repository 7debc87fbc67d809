// The table of an atlas: sorting and searching are DataTables', the filters above it are columns'.
"use strict";
for (const atlas of document.querySelectorAll(".atlas")) {
  const table = new DataTable(atlas.querySelector("table.listed"), {
    pageLength: 10,
    order: [],
    language: { search: "search all columns", lengthMenu: "_MENU_ latents a page" },
  });
  for (const filter of atlas.querySelectorAll("select[data-column]")) {
    filter.addEventListener("change", () => {
      table.column(Number(filter.dataset.column)).search(filter.value).draw();
    });
  }
  const rarest = atlas.querySelector("select[data-most]");
  rarest.addEventListener("change", () => {
    const column = Number(rarest.dataset.most);
    const most = Number(rarest.value);
    table.search.fixed("density", (_, cells) => !most || parseFloat(cells[column]) <= most).draw();
  });
  const rows = "table.listed tbody";
  atlas.querySelector("input[type=search]").dataset.answers = `#${atlas.id} ${rows}`;
}
