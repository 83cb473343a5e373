// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stands in for the kernel's drivers/dma-buf/sync_debug.c when sw_sync is built as a module. That file also lists every fence in
 * debugfs, with functions the kernel does not export to modules; tests need only the file through which sw_sync is used.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include "sync_debug.h"

static struct dentry *directory;

void sync_timeline_debug_add(struct sync_timeline *obj) {}
void sync_timeline_debug_remove(struct sync_timeline *obj) {}

static int __init sw_sync_init(void)
{
	directory = debugfs_create_dir("sync", NULL);
	debugfs_create_file("sw_sync", 0644, directory, NULL, &sw_sync_debugfs_fops);
	return 0;
}

static void __exit sw_sync_exit(void)
{
	debugfs_remove_recursive(directory);
}

module_init(sw_sync_init);
module_exit(sw_sync_exit);
MODULE_DESCRIPTION("Fences signalled by user space");
MODULE_LICENSE("GPL");
