"""Checks of the inputs of networks; their errors say what to do."""

from jaxtyping import Array, Float, Int, Key


def check_image_size(x: Float[Array, "b h w c"], levels: int, *, patch_size: int = 1) -> None:
    """Refuses images that cannot be cut into patches and halved between all levels.

    Raises:
      ValueError: says what sizes are allowed.
    """
    halvings = levels - 1
    if patch_size < 1:
        raise ValueError(f"model.patch_size is {patch_size}, but must be at least 1.")
    stride = patch_size * 2**halvings
    if x.shape[1] % stride or x.shape[2] % stride:
        after = f" in patches of {patch_size}x{patch_size}" if patch_size > 1 else ""
        raise ValueError(
            f"Images of {x.shape[1]}x{x.shape[2]} pixels cannot be halved {halvings} times{after}: both sides must be "
            f"multiples of {stride}, so resize the images or use fewer channel_multipliers."
        )


def check_optional_label(label: Int[Array, " b"] | None, num_classes: int) -> None:
    """Refuses labels for an unconditional network; a conditional one takes None as the null token.

    Raises:
      ValueError: if there are labels, but no classes.
    """
    if label is not None and not num_classes:
        raise ValueError("This network is unconditional (num_classes=0) but was given labels: set num_classes.")


def check_required_label(label: Int[Array, " b"] | None, num_classes: int) -> None:
    """Refuses labels for an unconditional network, and a conditional one without labels.

    Raises:
      ValueError: in these two cases.
    """
    if label is None and num_classes:
        raise ValueError(f"A network that is conditional on {num_classes} classes needs a label for each image.")
    if label is not None and not num_classes:
        raise ValueError("An unconditional network was given labels: set num_classes, or leave the labels out.")


def training_keys(train: bool, dropout: float, dropout_keys: Key[Array, " b"] | None) -> Key[Array, " b"] | None:
    """Returns the dropout keys for the layers: None outside training.

    Raises:
      ValueError: if they are needed and missing.
    """
    if train and dropout > 0 and dropout_keys is None:
        raise ValueError(f"Training with dropout={dropout} needs dropout_keys, one key an example.")
    return dropout_keys if train else None


def check_halvings(sides: tuple[int, ...], halvings: int, *, advice: str) -> None:
    """Refuses images whose height and width cannot be halved so often.

    Args:
      sides: height and width.
      halvings: number of halvings.
      advice: what can be done about it, other than to resize the images.

    Raises:
      ValueError: says what sizes are allowed, and the advice.
    """
    height, width = sides
    stride = 2**halvings
    if height % stride or width % stride:
        raise ValueError(
            f"Images of {height}x{width} pixels cannot be halved evenly {halvings} times: both sides must be multiples "
            f"of {stride}, so resize the images or {advice}."
        )
