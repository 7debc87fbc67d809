// Shows the images of a choice at the places of one or two sliders, and what was read from them.
"use strict";
for (const box of document.querySelectorAll(".laboratory")) {
  const told = JSON.parse(box.querySelector("script[type='application/json']").textContent);
  const [choice, ...sliders] = box.querySelectorAll("select, input");
  const images = box.querySelector(".images");
  const percent = (share) => `${Math.round(100 * share)} %`;
  const ends = (figure) =>
    `${figure.value.toFixed(2)} [${figure.low.toFixed(2)}, ${figure.high.toFixed(2)}]`;

  function line(name, cells) {
    const whole = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    whole.append(head, ...cells.map((cell) => {
      const place = document.createElement("td");
      place.append(cell);
      return place;
    }));
    return whole;
  }

  function bar(share) {
    const shown = document.createElement("span");
    const length = document.createElement("span");
    length.className = "bar";
    length.style.width = `${80 * share}px`;
    shown.append(length, ` ${percent(share)}`);
    return shown;
  }

  function show() {
    const spots = sliders.map((slider) => Number(slider.value));
    const words = spots.map((spot, i) => told.words[i][spot]);
    sliders.forEach((slider, i) => {
      slider.setAttribute("aria-valuetext", words[i]);
      slider.nextElementSibling.textContent = words[i];
    });
    const column = spots.at(-1);
    const row = spots.length > 1 ? spots[0] : 0;
    const cell = told.cells[choice.value][row * told.words.at(-1).length + column];
    images.style.backgroundImage = `url(_static/laboratory/${told.sheets[choice.value]})`;
    images.style.backgroundPosition = `-${column * told.width}px -${row * told.height}px`;
    images.setAttribute("aria-label",
      `${told.shown} images: ${choice.value}, ${words.join(" and ")}`);
    const body = box.querySelector(".readings tbody");
    body.replaceChildren(line("CLIP-I", [ends(cell.clip_i)]), line("leak", [ends(cell.leak)]));
    for (const [factor, shares] of Object.entries(cell.shares)) {
      shares.forEach((share, i) => {
        const before = told.before[factor][i];
        const name = `${factor.replaceAll("_", " ")}: ${told.classes[factor][i]}`;
        body.append(line(name, [bar(share), percent(before)]));
      });
    }
  }
  for (const part of [choice, ...sliders]) part.addEventListener("input", show);
  show();
}
