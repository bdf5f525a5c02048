/*
 * A QEMU plugin that counts the guest's instructions and prints their number,
 * alone on a line, when the guest ends. Run: qemu-ARCH -d plugin -D FILE
 * -plugin insns.so PROGRAM. The declarations are those of QEMU's plugin
 * interface, version 1 (QEMU 6 and later).
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*cb)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op, void *ptr, uint64_t imm);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*cb)(plugin_id, void *), void *data);
void qemu_plugin_outs(const char *text);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { add_u64 = 0 }; /* the only operation that can be done inline */

static uint64_t executed;

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
	(void)id;
	qemu_plugin_register_vcpu_tb_exec_inline(tb, add_u64, &executed, qemu_plugin_tb_n_insns(tb));
}

static void ended(plugin_id id, void *data)
{
	char text[32];

	(void)id;
	(void)data;
	snprintf(text, sizeof text, "%" PRIu64 "\n", executed);
	qemu_plugin_outs(text);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
	(void)info;
	(void)argc;
	(void)argv;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
