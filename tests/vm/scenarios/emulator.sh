# The emulated host answers as this kernel does: the same questions about mtty, the
# same words, errors, modes and links, byte for byte.
share=/share/emulator
bash "$share/compare.sh" >/run/virt-mdev-test.transcript 2>&1
contains "what the kernel was asked" "$(grep '^==' /run/virt-mdev-test.transcript)" "== the parent"
exists "$share/mtty.transcript"
difference=$(diff "$share/mtty.transcript" /run/virt-mdev-test.transcript) || true
equal "the kernel's answers (>) against the emulator's (<)" '' "$difference"
rm /run/virt-mdev-test.transcript
