"""How a script ends: argument by argument."""
import sys
import threading
import traceback


def deep(n):
    if n:
        return deep(n - 1)
    return {}["nothing"]


def chained():
    try:
        deep(2)
    except KeyError as error:
        raise RuntimeError("chained") from error


def spoken():
    try:
        deep(1)
    except KeyError:
        traceback.print_exc()
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()


how = sys.argv[1]
if how == "code":
    sys.exit(7)
if how == "words":
    sys.exit("words")
if how == "stop":
    raise KeyboardInterrupt
if how == "spoken":
    spoken()
if how == "chained":
    chained()
if how == "hook":
    sys.excepthook = lambda kind, error, trace: print("hooked", kind.__name__, traceback.extract_tb(trace)[-1].lineno)
if how != "spoken":
    (lambda: deep(0))()
