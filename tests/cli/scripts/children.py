"""Workers of every kind find the script's classes and functions; objects of its classes travel both ways."""
import inspect
import multiprocessing
import pickle
import sys
from dataclasses import dataclass


@dataclass
class Point:
    x: int

    def moved(self, by):
        return Point(self.x + by)


def move(point):
    assert isinstance(point, Point)
    return point.moved(10), __name__, inspect.getsource(move)


def fail(x):
    raise ValueError(f"no {x}")


if __name__ == "__main__":
    print(pickle.loads(pickle.dumps(Point(1))))
    for method in sys.argv[1:]:
        with multiprocessing.get_context(method).Pool(2) as pool:
            for moved, name, source in pool.map(move, [Point(1), Point(2)]):
                print(method, moved, type(moved) is Point, name, source)
            try:
                pool.map(fail, [1])
            except ValueError as error:
                print(error, error.__cause__)
    multiprocessing.set_start_method(sys.argv[1])
