// The image tokenizer in the hand: a picture, its codes, what they give, and what another code would.
import { ask, buttonGrid, by, dataUrl, element, json, run } from "./common.js";
import { onPicture, source } from "./source.js";

let codes = null;
let buttons = [];

// Codes of neighbouring numbers get colours far apart.
const colour = (code) => `hsl(${(code * 137.508) % 360} ${45 + (code % 4) * 12}% ${35 + (code % 5) * 9}%)`;
const label = (row, column) => `code ${codes[row][column]} in row ${row + 1}, column ${column + 1}`;

function showGrid() {
  buttons = buttonGrid(by("grid"), source.about.grid, label, (row, column) => showNeighbors(row, column));
  const columns = source.about.grid[1];
  buttons.forEach((button, number) => {
    const code = codes[Math.floor(number / columns)][number % columns];
    button.style.background = colour(code);
    button.title = `code ${code}`;
  });
}

function showPicture(encoded) {
  if (!encoded.codes) return;
  codes = encoded.codes.map((row) => [...row]);
  by("original").src = dataUrl(encoded.picture);
  by("original").alt = "The picture as the model sees it";
  by("rebuilt").src = dataUrl(encoded.reconstruction);
  by("rebuilt").alt = "The picture that its codes give";
  by("rebuilt-caption").textContent = `From its codes, ${encoded.psnr_db.toFixed(1)} dB`;
  const kinds = new Set(codes.flat()).size;
  by("grid-caption").textContent = `${codes.flat().length} codes, ${kinds} different of ${source.about.codebook_size}`;
  by("neighbors-title").textContent = "";
  by("neighbors").replaceChildren();
  by("undo").disabled = true;
  showGrid();
}

async function showNeighbors(row, column) {
  const number = row * source.about.grid[1] + column;
  buttons.forEach((button, other) => button.setAttribute("aria-pressed", other === number));
  await run("Looking for codes nearby.", async (signal) => {
    const answer = await ask("/page/neighbors", { ...json({ model: source.model, codes, position: [row, column] }), signal });
    const { neighbors } = await answer.json();
    by("neighbors-title").textContent = `Code ${codes[row][column]} and those nearest to it`;
    by("neighbors").replaceChildren();
    neighbors.forEach((neighbor, rank) => listNeighbor(neighbor, rank, row, column));
    return neighbors.length > 1 ? "Choose one to put it there." : "This quantizer's codes have no neighbours.";
  });
}

function listNeighbor({ code, distance, usage, picture }, rank, row, column) {
  const button = element("button", "", element("li", "", by("neighbors")));
  button.type = "button";
  const image = element("img", "", button);
  image.src = dataUrl(picture);
  image.alt = `The picture with code ${code} there`;
  element("span", rank ? `code ${code}, distance ${distance.toFixed(2)}` : `code ${code}, as it is`, button);
  if (usage !== null) element("span", `${(100 * usage).toFixed(2)}% of all codes`, button);
  button.addEventListener("click", () => {
    codes[row][column] = code;
    by("rebuilt").src = dataUrl(picture);
    by("rebuilt").alt = "The picture that the changed codes give";
    by("rebuilt-caption").textContent = "From the changed codes";
    by("undo").disabled = false;
    showGrid();
    buttons[row * source.about.grid[1] + column].focus();
  });
}

export function setUpCodes() {
  onPicture(showPicture);
  by("undo").addEventListener("click", () => showPicture(source.encoded));
}
