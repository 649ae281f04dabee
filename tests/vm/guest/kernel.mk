# Builds the kernel's sample mediated devices as modules (used by tests/vm/image).
obj-m := mtty.o mdpy.o mbochs.o
