"""What the page says around the figures. Whoever changes what is measured changes this too."""

INTRODUCTION = """\
# Performance

Written by `python -m bench` (`pip install -e '.[bench]'`; the peers once by
`python -m bench.peers install`, which takes minutes; `apt-get install redis-server`). Do not edit
it: edit `bench/words.py`.

Every figure is a **ratio of two things that took turns within one run** on one machine: the median
over the turns, and in brackets from where to where the turns went. Rates and microseconds stand
below the table to make sense of the ratios; they say as much about the machine as about the code.
Nothing here is part of the test suite: a test that measures time fails on a busy machine."""

MEANINGS = {
    1: """\
What the whole of trio-jobs costs beside the least that Hypercorn can do with a request: parse it,
read the body, send 201 and the same headers and bytes. Ours parses the JSON, checks it, makes an id
and a record, queues it, has a worker process it, and enforces every limit of the front door. It is
the server's own CPU, in user and kernel mode, of all its threads; what the client costs does not
matter. That the two are close is because the front door runs a request in the connection's one
task, and reads a short body before it calls the application: plain Hypercorn starts a task and
opens two channels for each request. What is left is mostly h11 and the system calls (about half),
Quart with Werkzeug (a fifth), and our own code (a sixth).""",
    2: """\
The same beside a route of Quart-Trio as it comes, behind the same front door, that reads the body
and answers a constant. Below 1 means that taking a job in *and processing it* costs less than the
second task, the body buffer and the nursery which Quart-Trio makes for each request, and which our
`api/connection.py` does without.""",
    3: """\
A batch pays for the request once. Jobs are admitted, that is: checked, in the store and in the
channel, all or none. The ten workers run meanwhile, in the same event loop.""",
    4: """\
A stream is slowed down to the speed of the workers by TCP, with a buffer of 1,000. Counted are
jobs that are *completed*, so this is everything: parse, admit, queue, claim, run, record.""",
    5: """\
What the core itself costs: id, time, record, order, claim, cancel scope, handler, ending, dropping
the oldest completed job. Beside it the same number of items through nothing but Trio's memory
channel, which is the least that handing work to a task can cost in this event loop.""",
    6: """\
No operation walks over the jobs. What grows is the time that memory takes to answer: a million jobs
do not fit into the processor's caches, a thousand do. The lookup in a plain dict, by nothing but
the hardware, grows by as much or more; `get` and a page, which is a hundred lookups in a row,
cannot grow less. The caches are cleared by other work before each block, as a server's are.""",
    7: """\
A waiting worker is a parked task. What more of them cost is memory that is further away, and the
end of ten thousand tasks, which is in the figure.""",
    8: """\
The growth of the whole process, the channel and the index included.""",
    9: """\
Nothing polls. Connections and waiters are entries in epoll and in Trio's queue of deadlines.""",
    10: """\
From the start of `python -m trio_jobs` until the first `POST /jobs` has been answered with 201,
beside the import of the web framework alone.""",
    11: """\
Each queue by its own best way to submit many jobs, with ten jobs at a time and one process of
workers. What makes the difference is not Python but the broker: every job of a queue with Redis is
several round trips between processes, and survives a crash of them, **which a job of trio-jobs
does not**. Where losing the queue with the process is not acceptable, the queues above are the
right choice, whatever this row says.""",
    12: """\
What a team gets that submits jobs over HTTP, 16 connections: the queues behind FastAPI have three
processes at work beside the client (web, Redis, worker), ours one, and this machine has few cores.
BackgroundTasks keep nothing, bound nothing and tell nobody how it ended; they run in a server
written in C (uvloop, httptools). The figure is given as it is.""",
    13: """\
The time from just before the submission until the handler runs. For trio-jobs it contains the
HTTP request, for the others their own client without HTTP. A queue that completes fewer than 500
jobs a second on this machine has a delay without bound here, which is what the figure then
shows.""",
}

LIMITS = """\
## What these figures do not say

- One machine, few cores, loopback. On a network the round trips of the peers cost more, and so
  does ours.
- The jobs are empty. With jobs of 10 ms nobody's queue is what limits the rate.
- The peers are at their documented defaults, apart from what is said here: ten jobs at a time, one
  worker process, no backend for results, no line in the log for each job, Redis without snapshots.
  Each of that helps them. arq looks for jobs every 0.5 s by default, and Huey at least every 0.1 s:
  both show.
- Nothing here measures durability, because trio-jobs has none beyond its process."""
