// The model that is chosen, and the picture that the other tabs work on, as that model sees it.
import { ask, by, dataUrl, form, run } from "./common.js";

export const source = { model: "", about: null, file: null, encoded: null };
const listeners = [];

// Calls `listener(encoded)` for every new picture: its codes, the picture at the model's size, its reconstruction.
export const onPicture = (listener) => listeners.push(listener);

export function useModel(name, about) {
  source.model = name;
  source.about = about;
  if (source.file) usePicture(source.file);
}

export async function usePicture(file) {
  await run("Reading the picture.", async (signal) => {
    const answer = await ask("/page/codes", { ...form({ model: source.model, image: file }), signal });
    source.file = file;
    source.encoded = await answer.json();
    for (const listener of listeners) listener(source.encoded);
    return "The picture is read.";
  });
}

export function setUpSource() {
  by("file").addEventListener("change", () => by("file").files.length && usePicture(by("file").files[0]));
  onPicture(({ picture }) => {
    by("described").src = dataUrl(picture);
    by("described").alt = "The picture to describe";
    by("described").hidden = false;
  });
}
