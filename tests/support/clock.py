"""A clock that tests move, for code that takes one in place of the machine's."""


class Clock:
    """Stands still, unless it is moved or moves by itself.

    Attributes:
        now_s: the time of the next reading.
        step_s: how far the clock moves at each reading.
        looks: the number of readings so far.
    """

    def __init__(self, now_s: float = 0.0, *, step_s: float = 0.0) -> None:
        self.now_s = now_s
        self.step_s = step_s
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        now_s = self.now_s
        self.now_s += self.step_s
        return now_s
