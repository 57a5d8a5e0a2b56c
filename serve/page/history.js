// Pictures of this session with their settings. They appear while they are drawn.
import { ask, by, dataUrl, element, events, pngFile } from "./common.js";
import { usePicture } from "./source.js";

// Sends a request whose answer is streamed, and shows its pictures. Returns the number of them.
export async function show(path, options, title, settings, count, seed, signal) {
  const answer = await ask(path, { ...options, signal });
  const frames = emptyFrames(title, settings, count);
  for await (const event of events(answer)) {
    if (event.error) throw new Error(event.error.message);
    const number = event.index ?? 0;
    const { item, image } = frames[number];
    image.src = dataUrl(event.b64_json);
    if (event.type.endsWith(".completed")) finish(item, event.b64_json, `${title}, picture ${number + 1}`, seed + number);
  }
  return frames.length;
}

function emptyFrames(title, settings, count) {
  const article = document.createElement("article");
  by("history").prepend(article);
  element("h2", title, article);
  element("p", settings.join(", "), article);
  const list = element("ul", "", article);
  return Array.from({ length: count }, (_, number) => {
    const item = element("li", "", list);
    const image = element("img", "", item);
    image.alt = `${title}, picture ${number + 1}, being drawn`;
    return { item, image };
  });
}

function finish(item, base64, name, seed) {
  item.querySelector("img").alt = name;
  const tools = element("div", "", item);
  const link = element("a", "Download", tools);
  link.href = dataUrl(base64);
  link.download = `seed-${seed}.png`;
  link.setAttribute("aria-label", `Download ${name}`);
  const use = element("button", "Use", tools);
  use.type = "button";
  use.setAttribute("aria-label", `Use ${name} in the other tabs`);
  use.addEventListener("click", () => usePicture(pngFile(base64)));
}
