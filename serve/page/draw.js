// Draws a prompt.
import { by, json, run } from "./common.js";
import { show } from "./history.js";
import { source } from "./source.js";

export const randomSeed = () => Math.floor(Math.random() * 2 ** 31);
let lastSeed = null;

async function draw(seed) {
  const body = { prompt: by("prompt").value, model: source.model, n: Number(by("n").value), seed };
  const settings = [`seed ${seed}`, source.model];
  for (const name of ["guidance_scale", "temperature"]) {
    if (by(name).value === "") continue;
    body[name] = Number(by(name).value);
    settings.push(`${name.replace("_", " ")} ${body[name]}`);
  }
  await run("Drawing.", async (signal) => {
    const options = json({ ...body, stream: true, partial_rows: true });
    lastSeed = seed;
    by("again").disabled = false;
    const count = await show("/v1/images/generations", options, body.prompt, settings, body.n, seed, signal);
    return `${count} drawn with seed ${seed}.`;
  });
}

export function setUpDraw() {
  by("draw-form").addEventListener("submit", (event) => {
    event.preventDefault();
    draw(by("seed").value === "" ? randomSeed() : Number(by("seed").value));
  });
  by("again").addEventListener("click", () => draw(lastSeed));
}
