# Builds the kernel's sample mediated devices as modules (used by tests/vm/image);
# otty is mtty under another name, as another host may have it.
obj-m := mtty.o otty.o mdpy.o mbochs.o
