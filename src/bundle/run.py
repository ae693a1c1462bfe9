"""What a bundle does with the decoder: offers its tensors as `tiepack.bundled()`, and runs the script.

From elsewhere: x (this code, decoder.c, the script, the starting shapes), d (the streams), g (the globals of `__main__`), and
ENTRIES, SHAPES, ORDER, NAMES, NAME of the artifact and the script.
"""
import importlib.util
import io
import linecache
import traceback


def bundled():
    """Tensors by name, or a list of them, f32; tied ones are one. Of torch, if it has been imported, else of numpy."""
    global kernel, tables
    shape = np.frombuffer(x[3], "i1").reshape(2, 28, 2, 25).cumsum(3, "i1").cumsum(0, "i1")
    tables = make_tables(shape.transpose(0, 3, 2, 1).ravel())
    code = x[1].decode()
    kernel = compiled(code) or translated(code)
    found = decode(ENTRIES, SHAPES, d)
    if "torch" in sys.modules:
        found = [*map(sys.modules["torch"].from_numpy, found)]
    found = [found[t] for t in np.cumsum(ORDER)]
    return dict(zip(NAMES, found)) if NAMES else found


def shown(kind, error, trace):
    """An exception that nobody caught, from the script on."""
    while trace and trace.tb_frame.f_code.co_filename != NAME:
        trace = trace.tb_next
    # Python looks for the line in the file of that name, which may be the bundle.
    if isinstance(error, SyntaxError) and error.filename == NAME:
        error.text = linecache.getline(NAME, error.lineno)
    traceback.print_exception(kind, error, trace)


sys.modules["tiepack"] = types.SimpleNamespace(**globals())
if g["__name__"] == "__main__":
    sys.excepthook = shown
lines = [*io.StringIO(importlib.util.decode_source(x[2]))]
linecache.cache[NAME] = linecache.cache[g["__file__"]] = 1, None, lines, NAME
exec(compile(x[2], NAME, "exec", 0, True), g)
