"""Where a large job is worked on: in this process, or on the machines of a cluster by Ray.

A job is cut into blocks, the same for every engine, and what comes of a block depends on the block alone: so an engine
changes the time a job takes and nothing of its result, to the last bit where each worker computes with as many threads.
:class:`Parts` keeps what is finished, so that a killed job goes on where it was.

>>> from xcrossrec.engine import Local
>>> dict(Local().results(lambda: lambda block: block.upper(), {"one": b"x", "two": b"y"}))
{'one': b'X', 'two': b'Y'}
"""

from xcrossrec.engine.engines import Engine, EngineName, Local, Make, Work, check_engine, engine_named
from xcrossrec.engine.parts import Parts

__all__ = ["Engine", "EngineName", "Local", "Make", "Parts", "Work", "check_engine", "engine_named"]
