// SPDX-License-Identifier: GPL-2.0-only
/*
 * Keeps a machine of several emulated processors alive while the kernel changes its own code.
 *
 * To change an instruction (a tracepoint is turned on, say), the kernel puts a breakpoint on it, then the new instruction, and waits for every
 * processor in between; one that meets the breakpoint meanwhile is sent on by poke_int3_handler(). A real processor can meet it no later.
 * QEMU 7.2's emulation can: it seems to translate a page while another processor writes to it, and to keep what it read. The kernel then
 * finds a breakpoint of nobody's and panics (6.12 and 7.3).
 *
 * So here: a breakpoint in the kernel's code that is no longer in memory is not one. What is there now is done in its place where that is
 * simple, since the stale translation may live on; where it is not, the processor tries once more.
 */
#include <linux/kdebug.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/printk.h>
#include <linux/ptrace.h>
#include <linux/string.h>
#include <linux/uaccess.h>

enum { INT3 = 0xcc, CALL = 0xe8, JMP32 = 0xe9, JMP8 = 0xeb };

static int on_int3(struct notifier_block *self, unsigned long event, void *data)
{
	static const u8 nop2[] = {0x66, 0x90}, nop5[] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
	struct pt_regs *regs = ((struct die_args *)data)->regs;
	const unsigned long address = regs->ip - 1;
	u8 code[5];
	s32 distance;

	if (event != DIE_INT3 || user_mode(regs) || copy_from_kernel_nofault(code, (void *)address, sizeof(code)) || code[0] == INT3)
		return NOTIFY_DONE;
	pr_info_once("a breakpoint was met that is no longer there, at %pS\n", (void *)address);
	memcpy(&distance, code + 1, sizeof(distance));
	switch (code[0]) {
	case CALL:
		/* The entry code leaves room for it. */
		regs->sp -= sizeof(unsigned long);
		*(unsigned long *)regs->sp = address + 5;
		fallthrough;
	case JMP32:
		regs->ip = address + 5 + distance;
		break;
	case JMP8:
		regs->ip = address + 2 + (s8)code[1];
		break;
	default:
		if (!memcmp(code, nop2, sizeof(nop2)))
			regs->ip = address + sizeof(nop2);
		else if (!memcmp(code, nop5, sizeof(nop5)))
			regs->ip = address + sizeof(nop5);
		else
			regs->ip = address;
	}
	return NOTIFY_STOP;
}

static struct notifier_block notifier = {.notifier_call = on_int3, .priority = INT_MAX};

static int __init stale_int3_init(void)
{
	return register_die_notifier(&notifier);
}

static void __exit stale_int3_exit(void)
{
	unregister_die_notifier(&notifier);
}

module_init(stale_int3_init);
module_exit(stale_int3_exit);
MODULE_DESCRIPTION("Breakpoints that an emulated processor saw too late");
MODULE_LICENSE("GPL");
