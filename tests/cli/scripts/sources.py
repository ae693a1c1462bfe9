"""Everything that has a source shows it."""
import inspect
import linecache
import sys


class Outer:
    """One."""

    class Inner:
        def method(self):
            return 1  # kept


def function(a, b=2):
    return [a for _ in range(b)]


page = ""
for thing in Outer, Outer.Inner, Outer.Inner().method, function, lambda: 0:
    print(inspect.getsource(thing), inspect.getsourcelines(thing)[1])
linecache.checkcache()
print(inspect.getsource(sys.modules["__main__"]))
print(inspect.getdoc(Outer), inspect.signature(function))
