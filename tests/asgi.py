"""The client of the tests over HTTP without sockets: the one that users get."""

from trio_jobs.testing import Answer as Answer
from trio_jobs.testing import Client as Client
from trio_jobs.testing import OpenRequest as OpenRequest
