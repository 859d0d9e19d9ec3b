"""The background tasks of a shop: an email, a thumbnail, an exchange rate.

Written for asyncio, as beside a FastAPI application: nothing here starts or stops trio-jobs, and
only the context's annotation comes from it.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Annotated

import aiosmtplib
import httpx
from PIL import Image
from pydantic import BaseModel, EmailStr, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from trio_jobs import JobContext


class Base(DeclarativeBase):
    """The tables of the shop."""


class Rate(Base):
    """An exchange rate, as it was at some time."""

    __tablename__ = "rates"

    id: Mapped[int] = mapped_column(primary_key=True)
    currency: Mapped[str]
    value: Mapped[float]


@dataclass
class Shop:
    """What all jobs share."""

    http: httpx.AsyncClient
    session: Callable[[], AbstractAsyncContextManager[AsyncSession]]


@asynccontextmanager
async def lifespan() -> AsyncIterator[Shop]:
    """Open the database and the HTTP client once, for all jobs."""
    database = os.environ.get("SHOP_DATABASE", "shop.db")
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    rates = os.environ.get("SHOP_RATES", "http://localhost:9000")
    async with httpx.AsyncClient(base_url=rates, timeout=30) as http:
        yield Shop(http=http, session=async_sessionmaker(engine))
    await engine.dispose()


class Email(BaseModel):
    """An email to a customer."""

    to: EmailStr
    subject: str = Field(min_length=1)
    text: str = ""


async def send_email(email: Email) -> dict[str, str]:
    """Send an email with aiosmtplib."""
    message = EmailMessage()
    message["From"] = "shop@example.com"
    message["To"] = email.to
    message["Subject"] = email.subject
    message.set_content(email.text)
    _, answer = await aiosmtplib.send(
        message,
        hostname=os.environ.get("SHOP_SMTP_HOST", "localhost"),
        port=int(os.environ.get("SHOP_SMTP_PORT", "8025")),
    )
    return {"to": email.to, "answer": answer}


def make_thumbnail(
    source: str, target: str, size: Annotated[int, Field(gt=0, le=1024)] = 128
) -> dict[str, int]:
    """Scale an image with Pillow; a plain function, which runs in a thread."""
    with Image.open(source) as image:
        image.thumbnail((size, size))
        image.convert("RGB").save(target, "JPEG")
        return {"width": image.width, "height": image.height}


async def save_rate(
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")],
    factor: Annotated[float, Field(gt=0)] = 1.0,
    *,
    context: JobContext[Shop],
) -> float:
    """Ask a slow HTTP API for a rate with httpx, and keep it with SQLAlchemy."""
    shop = context.state
    answer = await shop.http.get(f"/rates/{currency}")
    answer.raise_for_status()
    value: float = answer.json()["value"] * factor
    async with shop.session() as session:
        session.add(Rate(currency=currency, value=value))
        await session.commit()
    return value
