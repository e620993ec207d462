"""Very deep VAEs (Child 2021): latents at every block of the decoder, and the logistic mixture of PixelCNN++."""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config(variant: str = "digits") -> ConfigDict:
    """Variants: digits, tiny, fashion (on a CPU), and the paper's: cifar10, imagenet32, imagenet64, ffhq256."""
    variants = {
        "digits": digits,
        "tiny": tiny,
        "fashion": fashion,
        "cifar10": cifar10,
        "imagenet32": imagenet32,
        "imagenet64": imagenet64,
        "ffhq256": ffhq256,
    }
    return common.choose(variants, variant)


def cifar10() -> ConfigDict:
    """CIFAR-10: 39,145,700 parameters, 45 blocks, batch 32; 2.87 bits/dim in the paper."""
    config = common.base()
    config.method = "vae.vdvae"
    config.data.name = "cifar10"
    config.data.batch_size = 32
    config.train.num_steps = 1_000_000
    config.train.checkpoint_every_steps = 10_000
    config.train.sample_every_steps = 10_000
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 100
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.9
    config.optimizer.weight_decay = 0.01
    config.optimizer.weight_decay_multipliers = ((".*", 1.0),)  # biases, too
    config.optimizer.clip_norm = 200.0  # of the loss in nats per dimension
    config.optimizer.skip_norm = 400.0
    config.ema.decay = 0.9999
    config.ema.warmup = False

    config.model = ConfigDict()
    config.model.encoder_blocks = "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3"
    config.model.decoder_blocks = "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21"
    config.model.width = 384
    config.model.latent_channels = 16
    config.model.bottleneck = 0.25
    config.model.bias_up_to = 64

    config.vdvae = ConfigDict()
    config.vdvae.mixtures = 10
    config.vdvae.mean = 120.63838 / 127.5 - 1.0
    config.vdvae.deviation = 64.16736 / 127.5
    config.vdvae.levels = config_dict.placeholder(int)  # to which images are rounded; None: those of the data
    config.sampler = ConfigDict()
    config.sampler.temperature = 1.0
    config.sample.batch_size = 100
    return config


def imagenet32() -> ConfigDict:
    """ImageNet-32 of van den Oord et al. 2016 (not Chrabaszcz's): 119,280,868 parameters, batch 256."""
    config = cifar10()
    config.data.name = "downsampled_imagenet/32x32"
    config.data.batch_size = 256
    config.train.num_steps = 1_700_000
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.skip_norm = 300.0
    config.ema.decay = 0.999
    config.model.encoder_blocks = "32x15,32d2,16x9,16d2,8x8,8d2,4x6,4d4,1x6"
    config.model.decoder_blocks = "1x2,4m1,4x4,8m4,8x9,16m8,16x19,32m16,32x40"
    config.model.width = 512
    config.vdvae.mean = 116.2373 / 127.5 - 1.0
    config.vdvae.deviation = 69.37404 / 127.5
    return config


def imagenet64() -> ConfigDict:
    """ImageNet-64 of van den Oord et al. 2016 (not Chrabaszcz's): 125,005,860 parameters, batch 128."""
    config = imagenet32()
    config.data.name = "downsampled_imagenet/64x64"
    config.data.batch_size = 128
    config.train.num_steps = 1_600_000
    config.optimizer.clip_norm = 220.0
    config.optimizer.skip_norm = 380.0
    config.model.encoder_blocks = "64x11,64d2,32x20,32d2,16x9,16d2,8x8,8d2,4x7,4d4,1x5"
    config.model.decoder_blocks = "1x2,4m1,4x3,8m4,8x7,16m8,16x15,32m16,32x31,64m32,64x12"
    config.vdvae.mean = 115.92961967 / 127.5 - 1.0
    return config


def ffhq256() -> ConfigDict:
    """Faces at 256x256, in data.path: 114,874,852 parameters, batch 32; 5 bits, as in the paper."""
    config = imagenet64()
    config.data.name = "folder"
    config.data.image_size = 256
    config.data.batch_size = 32
    config.train.num_steps = 1_700_000
    config.optimizer.clip_norm = 130.0
    config.optimizer.skip_norm = 180.0
    config.model.encoder_blocks = "256x3,256d2,128x8,128d2,64x12,64d2,32x17,32d2,16x7,16d2,8x5,8d2,4x5,4d4,1x4"
    config.model.decoder_blocks = "1x2,4m1,4x3,8m4,8x4,16m8,16x9,32m16,32x21,64m32,64x13,128m64,128x7,256m128"
    config.vdvae.levels = 32  # the nearest of them, where the paper rounds down
    config.vdvae.mean = 112.8666757481 / 127.5 - 1.0
    config.vdvae.deviation = 69.84780273 / 127.5
    return config


def fashion() -> ConfigDict:
    """Fashion-MNIST, 28x28, 9 blocks of the decoder: 20 minutes of CPU time."""
    config = small(cifar10())
    config.data.name = "fashion"
    config.data.batch_size = 32
    config.train.num_steps = 840
    config.model.width = 32
    config.model.encoder_blocks = "28x1,28d2,14x2,14d2,7x2,7d7,1x1"
    config.model.decoder_blocks = "1x1,7m1,7x2,14m7,14x2,28m14,28x1"
    config.vdvae.mean = -0.428
    config.vdvae.deviation = 0.706
    return config


def digits() -> ConfigDict:
    """scikit-learn's 8x8 digits: minutes on two CPU cores."""
    config = small(cifar10())
    config.data.name = "digits"
    config.data.batch_size = 64
    config.train.num_steps = 2_000
    config.optimizer.weight_decay = 0.1
    config.model.width = 32
    config.model.latent_channels = 4
    config.model.encoder_blocks = "8x1,8d2,4x1,4d4,1x1"
    config.model.decoder_blocks = "1x1,4m1,4x1,8m4,8x1"
    config.vdvae.mean = -0.39
    config.vdvae.deviation = 0.75
    return config


def small(config: ConfigDict) -> ConfigDict:
    """Sets what a CPU trains in minutes."""
    config.train.sample_every_steps = 1_500
    config.train.checkpoint_every_steps = 500
    config.optimizer = common.optimizer()
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_norm = 200.0
    config.optimizer.skip_norm = 400.0
    config.ema.decay = 0.998
    config.ema.warmup = True
    config.model.width = 64
    config.model.latent_channels = 8
    config.model.bottleneck = 0.5
    config.vdvae.mixtures = 5
    config.sample.batch_size = 250
    return config


def tiny() -> ConfigDict:
    """Seconds, for the tests."""
    config = common.tiny(digits())
    config.model.width = 4
    config.model.latent_channels = 2
    config.model.encoder_blocks = "8d8,1x1"
    config.model.decoder_blocks = "1x1,8m1"
    config.vdvae.mixtures = 2
    return config
