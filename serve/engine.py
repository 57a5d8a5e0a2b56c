"""The thread that draws: requests join, draw and leave between the steps of one `Stepper` per model."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqlm.lm.decoding.stepper import Row, Stepper
from vqlm.serve.errors import ApiError
from vqlm.serve.jobs import Done, Job, Partial, PictureJob, ServedModel, choose
from vqlm.serve.threads import in_passing_thread
from vqlm.training.errors import UserError
from vqlm.vq import to_pil

log = logging.getLogger("vqlm.serve")


@dataclass(frozen=True)
class Load:
    """How busy the engine is."""

    queued_requests: int
    running_requests: int
    used_slots: int


class Engine:
    """Draws jobs in a thread of its own.

    Jobs are taken in their order, a picture's row at a time, as slots of the cache come free; `max_queue` of them may
    wait. Codes are drawn and decoded in this thread alone.
    """

    def __init__(self, models: Sequence[ServedModel], max_slots: int, max_queue: int):
        self._lanes = {model.name: in_passing_thread(Lane, model, max_slots) for model in models}
        self._max_queue, self._stops, self._recent = max_queue, False, 1.0
        self._inbox: list[Job] = []
        self._wakes = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises ApiError if too many wait, or the server is being stopped."""
        with self._wakes:
            if self._stops:
                raise ApiError(503, "shutting_down", "The server is being stopped; try again later.")
            waiting = self.load.queued_requests
            if waiting >= self._max_queue:
                seconds = max(1, round(self._recent * (1 + waiting / 16)))
                raise ApiError(
                    429, "queue_full", f"{waiting} requests are waiting; try again in {seconds} s.",
                    headers={"Retry-After": str(seconds)},
                )  # fmt: skip
            self._inbox.append(job)
            self._wakes.notify()

    def took(self, seconds: float) -> None:
        """Tell how long a request took, for the advice when to try again."""
        self._recent += 0.1 * (seconds - self._recent)

    def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        with self._wakes:
            self._stops = True
            self._wakes.notify()
        self._thread.join()

    @property
    def load(self) -> Load:
        lanes = self._lanes.values()
        return Load(
            len(self._inbox) + sum(len(lane.queue) for lane in lanes),
            sum(len(lane.running) for lane in lanes),
            sum(lane.stepper.max_slots - lane.stepper.free_slots for lane in lanes),
        )

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @torch.no_grad()
    def _run(self) -> None:
        lanes = list(self._lanes.values())
        while True:
            with self._wakes:
                while not self._inbox and not any(lane.queue or lane.running for lane in lanes):
                    if self._stops:
                        return
                    self._wakes.wait()
                for job in self._inbox:
                    self._lanes[job.model.name].queue.append(job)
                self._inbox.clear()
            for lane in lanes:
                lane.advance()


class Lane:
    """One model: the jobs that wait for it, those that it draws, and its stepper."""

    def __init__(self, model: ServedModel, max_slots: int):
        self.model, self.max_slots = model, max_slots
        self.queue: deque[Job] = deque()
        self.running: list[Job] = []
        self._build()

    def _build(self) -> None:
        pipe = self.model.pipeline
        self.stepper = Stepper(
            pipe.model, pipe.vocabulary, self.model.num_codes, self.max_slots, pipe.max_caption_tokens + 2
        )

    def advance(self) -> None:
        """Drop what nobody waits for, let rows join, draw one code of each, show pictures."""
        try:
            self._drop()
            self._admit()
            if self.stepper.rows:
                self.stepper.step()
                self._show()
        except Exception as error:  # the jobs fail, the server goes on
            log.exception("drawing with %s failed", self.model.name)
            message = str(error) if isinstance(error, UserError) else "Drawing failed; the server's log says why."
            jobs, self.running = self.running, []
            if self.queue and any(len(each.waiting) < len(each.rows) for each in self.queue[0].pictures):
                jobs.append(self.queue.popleft())  # some of its rows have joined
            for job in jobs:
                _end(job, ApiError(500, "drawing_failed", message))
            self._build()

    def _drop(self) -> None:
        now = time.monotonic()
        for job in [*self.running, *self.queue]:
            if job.cancelled.is_set():
                self._remove(job)
            elif now > job.deadline:
                self._remove(job)
                _end(job, ApiError(504, "deadline_exceeded", "The request took too long; try again later."))

    def _remove(self, job: Job) -> None:
        drawn = {id(row) for picture in job.pictures for row in picture.rows}
        self.stepper.leave([row for row in self.stepper.rows if id(row) in drawn])
        if job in self.running:
            self.running.remove(job)
        else:
            self.queue.remove(job)

    def _admit(self) -> None:
        """Rows join in the order of their jobs. A job whose last row has joined is running."""
        joining: list[Row] = []
        free = self.stepper.free_slots
        while self.queue:
            job = self.queue[0]
            for picture in job.pictures:
                while picture.waiting and picture.waiting[0].slots <= free:
                    free -= picture.waiting[0].slots
                    joining.append(picture.waiting.pop(0))
            if any(picture.waiting for picture in job.pictures):
                break
            self.running.append(self.queue.popleft())
        self.stepper.join(joining)

    def _show(self) -> None:
        """Make pictures of what is finished or due to be shown."""
        done: list[tuple[Job, int, PictureJob]] = []
        partial: list[tuple[Job, int, PictureJob]] = []
        partly = [self.queue[0]] if self.queue else []
        for job in [*self.running, *partly]:
            for number, picture in enumerate(job.pictures):
                if number in job.finished:
                    continue
                if picture.is_finished:
                    job.finished.add(number)
                    done.append((job, number, picture))
                elif picture.is_partial_due:
                    partial.append((job, number, picture))
        pipe = self.model.pipeline
        if done:
            images = pipe.decode(self._codes([choose(job, picture) for job, _, picture in done]))
            for image, (job, number, picture) in zip(images, done, strict=True):
                job.on_event(number, Done(image, picture.text))  # type: ignore[arg-type]
            self.running = [job for job in self.running if len(job.finished) < len(job.pictures)]
        if partial:
            # Nobody draws these again by their seed: their last bits may depend on the batch, unlike those of `decode`.
            codes = self._codes([picture.codes_so_far(self.model.num_codes) for _, _, picture in partial])
            images = to_pil(pipe.image_tokenizer.decode_codes(codes.to(pipe.image_tokenizer.device)).cpu())
            for image, (job, number, picture) in zip(images, partial, strict=True):
                job.on_event(number, Partial(picture.shown, image))
                picture.partial_is_shown()

    def _codes(self, flat: list[list[int]]) -> Tensor:
        return self.model.pipeline.image_tokenizer.unflatten_codes(torch.tensor(flat))


def _end(job: Job, error: ApiError) -> None:
    job.on_event(0, error)
