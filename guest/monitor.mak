# The devices of QEMU for guests, over --without-default-devices: what is not named here, or needed by what is, is not in it.
CONFIG_MICROVM=y
CONFIG_PCI_DEVICES=n
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VIRTIO_9P=y
