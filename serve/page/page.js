"use strict";
// Text from people is put into the page by textContent and attributes only, never as HTML.

const field = (name) => document.getElementById(name);
const status = field("status");
let lastSeed = null;
let stop = null;

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function say(text, isError = false) {
  status.textContent = text;
  status.className = isError ? "error" : "";
}

async function listModels() {
  const answer = await fetch("/v1/models");
  for (const model of (await answer.json()).data) element("option", model.id, field("model"));
}

function settings(seed) {
  const body = { prompt: field("prompt").value, model: field("model").value, n: Number(field("n").value) };
  for (const name of ["guidance_scale", "temperature"]) {
    if (field(name).value !== "") body[name] = Number(field(name).value);
  }
  return { ...body, seed: seed, stream: true, partial_rows: true };
}

// The settings and empty frames, before the first picture is there.
function frames(body) {
  const article = document.createElement("article");
  field("history").prepend(article);
  element("h2", body.prompt, article);
  const said = [`seed ${body.seed}`, body.model];
  for (const name of ["guidance_scale", "temperature"]) {
    if (name in body) said.push(`${name.replace("_", " ")} ${body[name]}`);
  }
  element("p", said.join(", "), article);
  const list = element("ul", "", article);
  return Array.from({ length: body.n }, (_, number) => {
    const item = element("li", "", list);
    const image = element("img", "", item);
    image.alt = `${body.prompt}, picture ${number + 1}, being drawn`;
    return { item, image };
  });
}

function show(frame, event, body, number) {
  frame.image.src = `data:image/png;base64,${event.b64_json}`;
  if (!event.type.endsWith(".completed")) return;
  frame.image.alt = `${body.prompt}, picture ${number + 1}`;
  const link = element("a", "Download", frame.item);
  link.href = frame.image.src;
  link.download = `seed-${body.seed + number}.png`;
  link.setAttribute("aria-label", `Download picture ${number + 1}`);
}

// The events of an answer as they arrive.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const line = part.split("\n").find((each) => each.startsWith("data: "));
      if (line) yield JSON.parse(line.slice(6));
    }
  }
}

async function draw(seed) {
  const body = settings(seed);
  stop = new AbortController();
  field("another").disabled = field("again").disabled = true;
  field("stop").disabled = false;
  say("Drawing.");
  try {
    const answer = await fetch("/v1/images/generations", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: stop.signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    const shown = frames(body);
    lastSeed = seed;
    for await (const event of events(answer)) {
      if (event.error) throw new Error(event.error.message);
      show(shown[event.index ?? 0], event, body, event.index ?? 0);
    }
    say(`${body.n} drawn with seed ${seed}.`);
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped." : error.message, error.name !== "AbortError");
  } finally {
    field("another").disabled = false;
    field("again").disabled = lastSeed === null;
    field("stop").disabled = true;
  }
}

field("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = field("seed").value;
  draw(given === "" ? Math.floor(Math.random() * 2 ** 31) : Number(given));
});
field("again").addEventListener("click", () => draw(lastSeed));
field("stop").addEventListener("click", () => stop?.abort());
listModels();
