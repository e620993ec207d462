"""The section `model` of the networks that several methods use."""

from ml_collections import ConfigDict


def unet() -> ConfigDict:
    """The U-Net of DDPM at 32x32."""
    model = ConfigDict()
    model.name = "unet.UNet"
    model.base_channels = 128
    model.channel_multipliers = (1, 2, 2, 2)
    model.num_res_blocks = 2
    model.attention_resolutions = (16,)
    model.dropout = 0.1
    model.num_groups = 32
    model.num_heads = 1
    model.remat = False
    model.patch_size = 1
    return model


def adm_unet() -> ConfigDict:
    """The U-Net of improved DDPM at 32x32; ADM's is another choice of its settings."""
    model = ConfigDict()
    model.name = "adm_unet.ADMUNet"
    model.base_channels = 128
    model.channel_multipliers = (1, 2, 2, 2)
    model.num_res_blocks = 3
    model.attention_resolutions = (16, 8)
    model.num_heads = 4
    model.head_channels = 0  # if positive, it says how many heads there are
    model.use_scale_shift_norm = True
    model.resblock_updown = False
    model.use_new_attention_order = False
    model.dropout = 0.0
    model.remat = False
    return model


def digits_adm_unet() -> ConfigDict:
    """ADM's U-Net for 8x8 digits."""
    model = adm_unet()
    model.base_channels = 32
    model.channel_multipliers = (1, 2)
    model.num_res_blocks = 1
    model.attention_resolutions = ()  # the middle has it always
    return model


def song_unet() -> ConfigDict:
    """DDPM++ at 32x32."""
    model = ConfigDict()
    model.name = "song_unet.SongUNet"
    model.base_channels = 128
    model.channel_multipliers = (2, 2, 2)
    model.num_res_blocks = 4
    model.attention_resolutions = (16,)
    model.embedding = "positional"
    model.noise_channel_multiplier = 1
    model.encoder = "standard"
    model.resample_filter = (1, 1)
    model.dropout = 0.13
    model.remat = False
    return model


def ncsnpp() -> ConfigDict:
    """The settings of NCSN++ that differ from those of DDPM++ (Karras et al. 2022, table 7)."""
    model = ConfigDict()
    model.embedding = "fourier"
    model.noise_channel_multiplier = 2
    model.encoder = "residual"
    model.resample_filter = (1, 3, 3, 1)
    return model


# Depth, width and heads of DiT and SiT (Peebles and Xie 2023, table 1).
TRANSFORMERS = {"s": (12, 384, 6), "b": (12, 768, 12), "l": (24, 1024, 16), "xl": (28, 1152, 16)}


def transformer(size: str, patch_size: int) -> ConfigDict:
    """DiT of a size s, b, l or xl."""
    model = ConfigDict()
    model.name = "dit.DiT"
    model.patch_size = patch_size
    model.depth, model.hidden_size, model.num_heads = TRANSFORMERS[size]
    model.mlp_ratio = 4.0
    model.qk_norm = False
    model.dropout = 0.0
    model.scan_layers = False
    model.remat = False
    return model


def digits_transformer() -> ConfigDict:
    """A DiT of 8x8 digits in patches of 2x2."""
    model = transformer("s", 2)
    model.depth, model.hidden_size, model.num_heads = 6, 128, 4
    return model


def shapes_unet() -> ConfigDict:
    """The U-Net for 32x32 shapes: 6M parameters."""
    model = unet()
    model.base_channels = 64
    model.channel_multipliers = (1, 2, 2)
    model.attention_resolutions = (8,)
    return model


def digits_unet() -> ConfigDict:
    """A U-Net of 0.5M parameters for 8x8 digits."""
    model = unet()
    model.base_channels = 32
    model.channel_multipliers = (1, 2)
    model.num_res_blocks = 1
    model.attention_resolutions = ()  # the middle has it always
    model.dropout = 0.0
    model.num_groups = 8
    return model


def tiny_unet() -> ConfigDict:
    """The U-Net with the least to compile, for the tests."""
    model = digits_unet()
    model.base_channels = 8
    model.channel_multipliers = (1,)
    model.dropout = 0.1
    model.num_groups = 4
    return model
