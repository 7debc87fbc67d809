// Shows the images of a method at the shares that two sliders ask for, and what was read from them.
"use strict";
for (const box of document.querySelectorAll(".laboratory")) {
  const told = JSON.parse(box.querySelector("script[type='application/json']").textContent);
  const [method, ...sliders] = box.querySelectorAll("select, input");
  const images = box.querySelector(".images");
  const attributes = Object.keys(told.asked);
  const percent = (share) => `${Math.round(100 * share)} %`;
  const ends = (figure) =>
    `${figure.value.toFixed(2)} [${figure.low.toFixed(2)}, ${figure.high.toFixed(2)}]`;

  function row(name, cells) {
    const line = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    line.append(head, ...cells.map((cell) => {
      const place = document.createElement("td");
      place.append(cell);
      return place;
    }));
    return line;
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
    const asked = attributes.map((name, i) => told.asked[name][spots[i]]);
    const words = attributes.map((name, i) => `${percent(asked[i])} ${told.classes[name].at(-1)}`);
    sliders.forEach((slider, i) => {
      slider.setAttribute("aria-valuetext", words[i]);
      slider.nextElementSibling.textContent = words[i];
    });
    const across = told.asked[attributes[1]].length;
    const cell = told.methods[method.value][spots[0] * across + spots[1]];
    images.style.backgroundImage = `url(_static/laboratory/${told.sheets[method.value]})`;
    images.style.backgroundPosition =
      `-${spots[1] * told.width}px -${spots[0] * told.height}px`;
    images.setAttribute("aria-label",
      `${told.shown} images by ${method.value}, asked for ${words.join(" and ")}`);
    const body = box.querySelector(".readings tbody");
    body.replaceChildren(row("CLIP-I", [ends(cell.clip_i)]), row("leak", [ends(cell.leak)]));
    for (const [factor, shares] of Object.entries(cell.shares)) {
      shares.forEach((share, i) => {
        const before = told.before[factor][i];
        const name = `${factor.replaceAll("_", " ")}: ${told.classes[factor][i]}`;
        body.append(row(name, [bar(share), percent(before)]));
      });
    }
  }
  for (const part of [method, ...sliders]) part.addEventListener("input", show);
  show();
}
