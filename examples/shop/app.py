"""The same tasks inside of the FastAPI application: ``uvicorn app:app``."""

import shop
from fastapi import FastAPI

from trio_jobs import Handler, JobQueue

queue = JobQueue(
    {
        "email": Handler.of(shop.send_email, run="asyncio", timeout=60),
        "rate": Handler.of(shop.save_rate, run="asyncio", timeout=60),
        "thumbnail": shop.make_thumbnail,
    },
    workers=20,
    lifespan={"asyncio": shop.lifespan},
)
app = FastAPI(lifespan=queue.lifespan)
app.mount("/queue", queue)


@app.post("/register", status_code=202)
async def register(email: shop.Email) -> dict[str, str]:
    """Welcome a customer, later."""
    job = await queue.submit("email", email)
    return {"job": f"/queue/jobs/{job.id}"}
