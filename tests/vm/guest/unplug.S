/* A boot sector for a guest that lets go of what is taken from it, as an operating system does that follows ACPI: it
 * finds the slots whose removal is asked for, and ejects them (QEMU's docs/specs/acpi_pci_hotplug.rst). What it sees of
 * the mtty device it tells on its serial line. */
        .set    bus, 0xae10             /* which of them the registers are about */
        .set    asked, 0xae04           /* slots that are to go, a bit each */
        .set    eject, 0xae08
        .set    line, 0x3f8
        .set    seen, 0x7e00            /* how many devices of mtty's there were */

        .code16
        .globl  _start
_start: ljmp    $0, $begin
begin:  xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        movb    $0, seen
        mov     $ready, %si
        call    tell
        sti
next:   hlt                             /* until the timer's next tick: 18 in a second */

        mov     $0x80000000, %eax       /* vendor and device of each slot */
        mov     $32, %cx
        xor     %bl, %bl
slot:   mov     $0xcf8, %dx
        out     %eax, %dx
        mov     %eax, %edi
        mov     $0xcfc, %dx
        in      %dx, %eax
        cmp     $0x32534348, %eax
        jne     other
        inc     %bl
other:  lea     0x800(%edi), %eax
        loop    slot
        cmp     %bl, seen
        je      same
        mov     $came, %si
        ja      less
        jmp     say
less:   mov     $went, %si
say:    mov     %bl, seen
        call    tell

same:   mov     $bus, %dx
        xor     %eax, %eax
        out     %eax, %dx
        mov     $asked, %dx
        in      %dx, %eax
        test    %eax, %eax
        jz      next
        mov     $eject, %dx
        out     %eax, %dx
        jmp     next

tell:   mov     $(line + 5), %dx
full:   in      %dx, %al
        test    $0x20, %al
        jz      full
        lodsb
        test    %al, %al
        jz      told
        mov     $line, %dx
        out     %al, %dx
        jmp     tell
told:   ret

ready:  .asciz  "ready\n"
came:   .asciz  "came\n"
went:   .asciz  "went\n"

        .org    510
        .word   0xaa55
