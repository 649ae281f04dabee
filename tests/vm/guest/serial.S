/* A boot sector for a guest that uses the mtty device it has been given: what is written there is read back in order,
 * and eight characters are on their way at any time. Whoever takes the device away, or loses what is in it, is found
 * out. It is looked at from outside, in the guest's memory. */
        .set    rounds, 0x7e00          /* characters that came back */
        .set    wrong, 0x7e04           /* those that were not the next one */
        .set    state, 0x7e08
        .set    AT_WORK, 4711
        .set    NO_DEVICE, 4712

        .code16
        .globl  _start
_start: ljmp    $0, $begin
begin:  xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        movl    $0, rounds
        movl    $0, wrong

        /* The PCI BIOS knows where it is, and the port of its first register. */
        mov     $0xb102, %ax
        mov     $0x3253, %cx
        mov     $0x4348, %dx
        xor     %si, %si
        int     $0x1a
        jc      none
        mov     $0xb109, %ax
        mov     $0x10, %di
        int     $0x1a
        jc      none
        and     $0xfffc, %cx

        mov     %cx, %dx
        add     $2, %dx
        mov     $7, %al                 /* FCR: with FIFO, and that empty */
        out     %al, %dx
        mov     %cx, %dx
        mov     $8, %cx
        xor     %al, %al
first:  out     %al, %dx
        inc     %al
        loop    first
        movl    $AT_WORK, state

        sti
next:   hlt                             /* until the timer's next tick: 18 in a second */
        in      %dx, %al
        cmp     rounds, %al
        je      right
        incl    wrong
right:  mov     rounds, %al
        add     $8, %al
        out     %al, %dx
        incl    rounds

        /* Half a megabyte of pages that a migration has to send again: a slow one does not come to its end. */
        mov     $0x1000, %bx
page:   mov     %bx, %es
        incb    %es:0
        add     $0x100, %bx
        cmp     $0x9000, %bx
        jb      page
        jmp     next

none:   movl    $NO_DEVICE, state
end:    hlt
        jmp     end

        .org    510
        .word   0xaa55
