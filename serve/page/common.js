// Text from people is put into the page by textContent and attributes only, never as HTML.

export const by = (id) => document.getElementById(id);

export function element(name, text, parent) {
  const created = document.createElement(name);
  if (text) created.textContent = text;
  parent.append(created);
  return created;
}

export function say(text, isError = false) {
  by("status").textContent = text;
  by("status").className = isError ? "error" : "";
}

export const dataUrl = (base64) => `data:image/png;base64,${base64}`;

export function pngFile(base64) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

// An answer of the server. Throws what its error says.
export async function ask(path, options) {
  const answer = await fetch(path, { method: "POST", ...options });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  return answer;
}

export const json = (body) => ({ headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export function form(fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  return { body };
}

// Runs `task(signal)`, says what goes wrong, and lets the button Stop end it.
export async function run(text, task) {
  const controller = new AbortController();
  const stop = () => controller.abort();
  by("stop").disabled = false;
  by("stop").addEventListener("click", stop);
  say(text);
  try {
    say((await task(controller.signal)) ?? "");
  } catch (error) {
    const isStopped = error.name === "AbortError";
    say(isStopped ? "Stopped." : error.message, !isStopped);
  } finally {
    by("stop").removeEventListener("click", stop);
    by("stop").disabled = true;
  }
}

// The server-sent events of an answer as they arrive.
export async function* events(answer) {
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

// A grid of rows x columns buttons that the arrow keys move in. `choose(row, column, button, isDragged)`.
export function buttonGrid(parent, [rows, columns], label, choose, isDraggable = false) {
  parent.replaceChildren();
  parent.className = "grid";
  parent.setAttribute("role", "group");
  parent.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  const buttons = [];
  for (let number = 0; number < rows * columns; number++) {
    const [row, column] = [Math.floor(number / columns), number % columns];
    const button = element("button", "", parent);
    button.type = "button";
    button.tabIndex = number ? -1 : 0;
    button.setAttribute("aria-label", label(row, column));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      const [y, x] = [row + step[0], column + step[1]];
      if (y < 0 || y >= rows || x < 0 || x >= columns) return;
      button.tabIndex = -1;
      buttons[y * columns + x].tabIndex = 0;
      buttons[y * columns + x].focus();
    });
    if (isDraggable) {
      button.addEventListener("pointerdown", (event) => {
        button.releasePointerCapture(event.pointerId);
        choose(row, column, button, false);
      });
      button.addEventListener("pointerenter", (event) => event.buttons && choose(row, column, button, true));
      button.addEventListener("click", (event) => event.detail === 0 && choose(row, column, button, false));
    } else {
      button.addEventListener("click", () => choose(row, column, button, false));
    }
    buttons.push(button);
  }
  return buttons;
}
