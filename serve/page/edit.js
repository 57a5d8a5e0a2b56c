// Draws a part of the picture again: the codes that are marked on a grid over it.
import { buttonGrid, by, dataUrl, form, pngFile, run, say } from "./common.js";
import { randomSeed } from "./draw.js";
import { show } from "./history.js";
import { onPicture, source } from "./source.js";

let buttons = [];
let marks = true; // whether dragging marks, or unmarks

const isMarked = (button) => button.getAttribute("aria-pressed") === "true";
const mark = (button, value) => button.setAttribute("aria-pressed", value);

function choose(row, column, button, isDragged) {
  if (!isDragged) marks = !isMarked(button);
  mark(button, marks);
}

function setUpGrid({ picture }) {
  if (!source.about.grid) return;
  const label = (row, column) => `row ${row + 1}, column ${column + 1}`;
  buttons = buttonGrid(by("mask"), source.about.grid, label, choose, true);
  by("mask").style.backgroundImage = `url(${dataUrl(picture)})`;
}

// The picture at the model's size, transparent where it is marked.
async function maskFile() {
  const [width, height] = source.about.size;
  const [rows, columns] = source.about.grid;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d");
  pen.fillRect(0, 0, width, height);
  buttons.forEach((button, number) => {
    const [row, column] = [Math.floor(number / columns), number % columns];
    const [y, x] = [Math.round((row * height) / rows), Math.round((column * width) / columns)];
    if (isMarked(button)) pen.clearRect(x, y, Math.round(width / columns), Math.round(height / rows));
  });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

async function draw(event) {
  event.preventDefault();
  if (!buttons.length) return say("Choose a picture first.", true);
  if (!buttons.some(isMarked)) return say("Mark what is to be drawn again.", true);
  const [prompt, n, seed] = [by("edit-prompt").value, Number(by("edit-n").value), randomSeed()];
  const image = pngFile(source.encoded.picture);
  const fields = { model: source.model, image, mask: await maskFile(), prompt, n, seed, stream: true, partial_rows: true };
  return run("Drawing.", async (signal) => {
    const settings = ["a part drawn again", `seed ${seed}`, source.model];
    const count = await show("/v1/images/edits", form(fields), prompt, settings, n, seed, signal);
    return `${count} drawn with seed ${seed}.`;
  });
}

export function setUpEdit() {
  onPicture(setUpGrid);
  by("edit-form").addEventListener("submit", draw);
  by("unmark").addEventListener("click", () => buttons.forEach((button) => mark(button, false)));
  by("lower-half").addEventListener("click", () => {
    buttons.forEach((button, number) => mark(button, number >= buttons.length / 2));
  });
}
