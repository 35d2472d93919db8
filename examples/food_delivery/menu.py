"""What the kitchen cooks."""

from pydantic import BaseModel

from perdure.entities import ApplicationError


class Product(BaseModel, frozen=True):
    id: int
    name: str
    words: str
    price_cents: int
    picture: str
    """Name of the drawing in static/food.svg."""


MENU = [
    Product(
        id=1,
        name="Pizza Margherita",
        words="San Marzano tomatoes, fior di latte, basil from the window sill",
        price_cents=1150,
        picture="pizza",
    ),
    Product(
        id=2,
        name="Shoyu ramen",
        words="Twelve-hour broth, spring onions, an egg that is still a little shy",
        price_cents=1390,
        picture="ramen",
    ),
    Product(
        id=3,
        name="Cheeseburger",
        words="Smashed, with pickles, in a bun that we bake at six",
        price_cents=1080,
        picture="burger",
    ),
    Product(
        id=4,
        name="Salmon maki",
        words="Eight pieces, warm rice, ginger, and wasabi for the brave",
        price_cents=1290,
        picture="sushi",
    ),
    Product(
        id=5,
        name="Tacos al pastor",
        words="Three of them: pineapple, coriander, lime, no cutlery",
        price_cents=990,
        picture="tacos",
    ),
    Product(
        id=6,
        name="Berry cheesecake",
        words="Baked, not stirred; the last slice is always yours",
        price_cents=560,
        picture="cake",
    ),
]


def product_by_id(product_id: int) -> Product:
    for product in MENU:
        if product.id == product_id:
            return product
    raise ApplicationError(f"there is no product {product_id} on the menu", type="UnknownProduct")
