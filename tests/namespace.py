"""Network namespaces, as the tests of several folders use them."""

import ctypes
import threading


def inside(place, function, *arguments):
    """What a function gives in the network namespace of a file: its sockets are there."""
    results = []

    def work():
        try:
            with open(place, "rb") as space:
                # Python 3.11 has no os.setns.
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), 0) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(function(*arguments))
        except Exception as error:  # Given to whoever asked.
            results.append(error)

    # A network namespace is a thread's.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]
