// SPDX-License-Identifier: GPL-2.0
/*
 * A stand-in for resctrl, for machines whose processor has nothing to control.
 *
 * It registers a file system of that name which follows the kernel's description
 * (Documentation/x86/resctrl.rst): classes and MON groups are made, filled, joined and
 * removed, refused with the same errno, and info/last_cmd_status says why. Nothing is
 * controlled by it, and what it counts is made of the number of tasks. It was written
 * for tests of programs that use resctrl, and proves nothing about hardware.
 *
 * A task belongs to the class and the MON group whose numbers it bears, as in the kernel,
 * which hands both down to its children. Two domains have a cache of 11 bits and
 * bandwidth in steps of ten percent.
 */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/uaccess.h>

#define MAGIC 0x7655821
#define DOMAINS 2
#define CLOSIDS 8
#define RMIDS 16
#define FULL_MASK 0x7ff
#define BANDWIDTH_STEP 10

struct group {
	struct group *parent;		/* The class of a MON group; NULL for a class. */
	u32 closid, rmid;
	unsigned long mask[DOMAINS], bandwidth[DOMAINS];
	bool removed;
	struct list_head all;
};

struct file_kind {
	const char *name;
	void (*show)(struct seq_file *out, struct group *group, int domain);
	int (*store)(struct group *group, char *text, size_t length);
};

struct node {
	const struct file_kind *kind;
	struct group *group;
	int domain;
	struct node *next;
};

/* Held over everything below. Groups and nodes stay until the file system goes: files of
 * a group that was removed may be open. */
static DEFINE_MUTEX(lock);
static LIST_HEAD(groups);
static struct node *nodes;
static struct group *root_group;
static bool mounted;
static char status[128];

/* Notes why, for info/last_cmd_status. */
#define refuse(errno, ...) (snprintf(status, sizeof(status), __VA_ARGS__), -(errno))

static bool is_member(const struct task_struct *task, const struct group *group)
{
	return group->parent ? task->rmid == group->rmid : task->closid == group->closid;
}

/* Members go to `to`, or nowhere if that is NULL. Returns how many there are. */
static unsigned int for_members(struct group *group, struct group *to)
{
	struct task_struct *process, *task;
	unsigned int count = 0;

	rcu_read_lock();
	for_each_process_thread(process, task) {
		if (!is_member(task, group))
			continue;
		count++;
		if (to) {
			task->closid = to->closid;
			task->rmid = to->rmid;
		}
	}
	rcu_read_unlock();
	return count;
}

static void show_tasks(struct seq_file *out, struct group *group, int domain)
{
	struct task_struct *process, *task;

	rcu_read_lock();
	for_each_process_thread(process, task) {
		pid_t pid = task_pid_vnr(task);

		if (pid && is_member(task, group))
			seq_printf(out, "%d\n", pid);
	}
	rcu_read_unlock();
}

static int store_task(struct group *group, char *text, size_t length)
{
	struct task_struct *task = current;
	int pid, result = 0;

	if (kstrtoint(strim(text), 0, &pid) || pid < 0)
		return -EINVAL;
	rcu_read_lock();
	if (pid)
		task = pid_task(find_vpid(pid), PIDTYPE_PID);
	if (!task) {
		result = refuse(ESRCH, "no task %d", pid);
	} else if (group->parent && task->closid != group->parent->closid) {
		result = refuse(EINVAL, "task %d is in another control group", pid);
	} else {
		task->closid = group->closid;
		task->rmid = group->rmid;
	}
	rcu_read_unlock();
	return result;
}

static void show_schemata(struct seq_file *out, struct group *group, int domain)
{
	seq_printf(out, "    MB:0=%3lu;1=%3lu\n", group->bandwidth[0], group->bandwidth[1]);
	seq_printf(out, "    L3:0=%03lx;1=%03lx\n", group->mask[0], group->mask[1]);
}

static int parse_mask(char *text, unsigned long *mask)
{
	unsigned long shifted;

	if (kstrtoul(text, 16, mask))
		return refuse(EINVAL, "%s is no mask", text);
	if (!*mask || *mask & ~FULL_MASK)
		return refuse(EINVAL, "mask %lx is out of range", *mask);
	shifted = *mask >> __ffs(*mask);
	if (shifted & (shifted + 1))
		return refuse(EINVAL, "mask %lx has non-consecutive 1-bits", *mask);
	return 0;
}

static int parse_bandwidth(char *text, unsigned long *bandwidth)
{
	if (kstrtoul(text, 10, bandwidth))
		return refuse(EINVAL, "%s is no bandwidth", text);
	if (*bandwidth < BANDWIDTH_STEP || *bandwidth > 100)
		return refuse(EINVAL, "bandwidth %lu is out of range", *bandwidth);
	*bandwidth = roundup(*bandwidth, BANDWIDTH_STEP);
	return 0;
}

static int parse_line(char *line, struct group *staged)
{
	char *domain, *name = strim(strsep(&line, ":"));
	int (*parse)(char *text, unsigned long *value);
	unsigned long *values, set = 0;

	if (!line)
		return refuse(EINVAL, "a colon is missing");
	if (!strcmp(name, "L3")) {
		values = staged->mask;
		parse = parse_mask;
	} else if (!strcmp(name, "MB")) {
		values = staged->bandwidth;
		parse = parse_bandwidth;
	} else {
		return refuse(EINVAL, "there is no resource %s", name);
	}
	while ((domain = strsep(&line, ";"))) {
		char *number = strim(strsep(&domain, "="));
		unsigned int at;

		if (!domain && !*number)
			continue;
		if (!domain || kstrtouint(number, 10, &at) || at >= DOMAINS)
			return refuse(EINVAL, "there is no domain %s", number);
		if (set & BIT(at))
			return refuse(EINVAL, "domain %u is there twice", at);
		set |= BIT(at);
		if (parse(strim(domain), &values[at]))
			return -EINVAL;
	}
	return 0;
}

/* All lines or none. */
static int store_schemata(struct group *group, char *text, size_t length)
{
	struct group staged = *group;
	char *line;

	if (text[length - 1] != '\n')
		return -EINVAL;
	text[length - 1] = '\0';
	while ((line = strsep(&text, "\n")))
		if (parse_line(line, &staged))
			return -EINVAL;
	memcpy(group->mask, staged.mask, sizeof(group->mask));
	memcpy(group->bandwidth, staged.bandwidth, sizeof(group->bandwidth));
	return 0;
}

static void show_mode(struct seq_file *out, struct group *group, int domain)
{
	seq_puts(out, "shareable\n");
}

/* Processors can't be given to a group. */
static void show_cpus(struct seq_file *out, struct group *group, int domain)
{
	seq_puts(out, group == root_group ? "3\n" : "0\n");
}

static void show_status(struct seq_file *out, struct group *group, int domain)
{
	seq_printf(out, "%s\n", *status ? status : "ok");
}

static void show_occupancy(struct seq_file *out, struct group *group, int domain)
{
	seq_printf(out, "%u\n", for_members(group, NULL) * 4096 + domain);
}

static void show_total(struct seq_file *out, struct group *group, int domain)
{
	seq_printf(out, "%u\n", for_members(group, NULL) * 1000 + domain);
}

static void show_local(struct seq_file *out, struct group *group, int domain)
{
	seq_printf(out, "%u\n", for_members(group, NULL) * 100 + domain);
}

#define SHOWS(function, text)							\
	static void function(struct seq_file *out, struct group *group, int domain) \
	{									\
		seq_puts(out, text "\n");					\
	}
SHOWS(show_closids, __stringify(CLOSIDS))
SHOWS(show_mask, "7ff")
SHOWS(show_one, "1")
SHOWS(show_ten, "10")
SHOWS(show_rmids, __stringify(RMIDS))
SHOWS(show_features, "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes")

static const struct file_kind of_class[] = {
	{ "tasks", show_tasks, store_task }, { "cpus", show_cpus }, { "schemata", show_schemata, store_schemata },
	{ "mode", show_mode }, {}
};
static const struct file_kind of_mon[] = { { "tasks", show_tasks, store_task }, { "cpus", show_cpus }, {} };
static const struct file_kind of_domain[] = {
	{ "llc_occupancy", show_occupancy }, { "mbm_total_bytes", show_total }, { "mbm_local_bytes", show_local }, {}
};
static const struct file_kind of_info[] = { { "last_cmd_status", show_status }, {} };
static const struct file_kind of_cache[] = {
	{ "cbm_mask", show_mask }, { "min_cbm_bits", show_one }, { "num_closids", show_closids }, {}
};
static const struct file_kind of_bandwidth[] = {
	{ "bandwidth_gran", show_ten }, { "delay_linear", show_one }, { "min_bandwidth", show_ten },
	{ "num_closids", show_closids }, {}
};
static const struct file_kind of_monitoring[] = { { "mon_features", show_features }, { "num_rmids", show_rmids }, {} };

static int show(struct seq_file *out, void *unused)
{
	struct node *node = out->private;
	int result = 0;

	mutex_lock(&lock);
	if (node->group->removed)
		result = -ENODEV;
	else
		node->kind->show(out, node->group, node->domain);
	mutex_unlock(&lock);
	return result;
}

static int open_file(struct inode *inode, struct file *file)
{
	return single_open(file, show, inode->i_private);
}

static ssize_t write_file(struct file *file, const char __user *from, size_t length, loff_t *at)
{
	struct node *node = file_inode(file)->i_private;
	char *text;
	int result;

	if (!node->kind->store || !length || length >= PAGE_SIZE)
		return -EINVAL;
	text = memdup_user_nul(from, length);
	if (IS_ERR(text))
		return PTR_ERR(text);
	mutex_lock(&lock);
	*status = '\0';
	result = node->group->removed ? -ENODEV : node->kind->store(node->group, text, length);
	mutex_unlock(&lock);
	kfree(text);
	return result ?: length;
}

static const struct file_operations file_operations = {
	.open = open_file, .read = seq_read, .write = write_file, .llseek = seq_lseek, .release = single_release,
};

static int make_group(struct user_namespace *users, struct inode *dir, struct dentry *dentry, umode_t mode);
static int remove_group(struct inode *dir, struct dentry *dentry);

static const struct inode_operations plain_directory = { .lookup = simple_lookup };
static const struct inode_operations group_directory = {
	.lookup = simple_lookup, .mkdir = make_group, .rmdir = remove_group,
};

static struct inode *make_inode(struct super_block *super, umode_t mode, void *private)
{
	struct inode *inode = new_inode(super);

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
	inode->i_mode = mode;
	inode->i_private = private;
	inode->i_atime = inode->i_mtime = inode->i_ctime = current_time(inode);
	if (S_ISDIR(mode)) {
		inode->i_op = &plain_directory;
		inode->i_fop = &simple_dir_operations;
		inc_nlink(inode);
	} else {
		inode->i_fop = &file_operations;
	}
	return inode;
}

static struct dentry *add(struct dentry *parent, const char *name, umode_t mode, void *private)
{
	struct dentry *dentry = d_alloc_name(parent, name);
	struct inode *inode = dentry ? make_inode(parent->d_sb, mode, private) : NULL;

	if (!inode) {
		dput(dentry);
		return ERR_PTR(-ENOMEM);
	}
	d_add(dentry, inode);
	return dentry;
}

static int add_files(struct dentry *parent, const struct file_kind *kind, struct group *group, int domain)
{
	for (; kind->name; kind++) {
		struct node *node = kzalloc(sizeof(*node), GFP_KERNEL);

		if (!node)
			return -ENOMEM;
		*node = (struct node){ kind, group, domain, nodes };
		nodes = node;
		if (IS_ERR(add(parent, kind->name, S_IFREG | (kind->store ? 0644 : 0444), node)))
			return -ENOMEM;
	}
	return 0;
}

static int add_directory(struct dentry *parent, const char *name, const struct file_kind *files, struct group *group,
			 int domain)
{
	struct dentry *directory = add(parent, name, S_IFDIR | 0555, NULL);

	return IS_ERR(directory) ? -ENOMEM : add_files(directory, files, group, domain);
}

/* What is in the directory of a group. Where MON groups can be made, i_private is their class. */
static int fill_group(struct dentry *directory, struct group *group)
{
	struct dentry *data, *groups;
	int result = add_files(directory, group->parent ? of_mon : of_class, group, 0);

	data = add(directory, "mon_data", S_IFDIR | 0555, NULL);
	if (result || IS_ERR(data))
		return -ENOMEM;
	if (add_directory(data, "mon_L3_00", of_domain, group, 0) || add_directory(data, "mon_L3_01", of_domain, group, 1))
		return -ENOMEM;
	if (group->parent)
		return 0;
	groups = add(directory, "mon_groups", S_IFDIR | 0755, group);
	if (IS_ERR(groups))
		return -ENOMEM;
	d_inode(groups)->i_op = &group_directory;
	return 0;
}

/* A group with numbers of its own: the smallest that are free. */
static struct group *new_group(struct group *parent)
{
	struct group *group, *other;
	unsigned long closids = 0, rmids = 0;
	int domain;

	list_for_each_entry(other, &groups, all) {
		if (other->removed)
			continue;
		closids |= BIT(other->closid);
		rmids |= BIT(other->rmid);
	}
	if (!parent && ffz(closids) >= CLOSIDS)
		return ERR_PTR(refuse(ENOSPC, "out of CLOSIDs"));
	if (ffz(rmids) >= RMIDS)
		return ERR_PTR(refuse(ENOSPC, "out of RMIDs"));
	group = kzalloc(sizeof(*group), GFP_KERNEL);
	if (!group)
		return ERR_PTR(-ENOMEM);
	group->parent = parent;
	group->closid = parent ? parent->closid : ffz(closids);
	group->rmid = ffz(rmids);
	for (domain = 0; domain < DOMAINS; domain++) {
		group->mask[domain] = FULL_MASK;
		group->bandwidth[domain] = 100;
	}
	list_add(&group->all, &groups);
	return group;
}

/* In the root, whose i_private is NULL, it is a class; in mon_groups of a class a MON group. */
static int make_group(struct user_namespace *users, struct inode *dir, struct dentry *dentry, umode_t mode)
{
	struct group *group, *parent = dir->i_private;
	struct inode *inode;
	int result = -ENOMEM;

	mutex_lock(&lock);
	*status = '\0';
	group = new_group(parent);
	if (strchr(dentry->d_name.name, '\n') || (parent && parent->removed)) {
		result = -EINVAL;
	} else if (IS_ERR(group)) {
		result = PTR_ERR(group);
	} else {
		inode = make_inode(dir->i_sb, S_IFDIR | 0755, group);
		if (inode) {
			/* Nobody looks into it before it is whole. */
			inode_lock_nested(inode, I_MUTEX_CHILD);
			d_instantiate(dentry, inode);
			dget(dentry);
			inc_nlink(dir);
			result = fill_group(dentry, group);
			inode_unlock(inode);
		}
	}
	if (result && !IS_ERR(group))
		group->removed = true;
	mutex_unlock(&lock);
	return result;
}

static int remove_group(struct inode *dir, struct dentry *dentry)
{
	struct group *other, *group = d_inode(dentry)->i_private;
	struct group *to = dir->i_private ?: root_group;

	/* info, mon_data and mon_groups are nobody's to remove. */
	if (!group || d_inode(dentry)->i_op != &plain_directory)
		return -EPERM;
	mutex_lock(&lock);
	*status = '\0';
	for_members(group, to);
	group->removed = true;
	list_for_each_entry(other, &groups, all)
		if (other->parent == group)
			other->removed = true;
	mutex_unlock(&lock);
	/* It takes these itself, as tracefs knows too. */
	inode_unlock(d_inode(dentry));
	inode_unlock(dir);
	simple_recursive_removal(dentry, NULL);
	inode_lock_nested(dir, I_MUTEX_PARENT);
	inode_lock(d_inode(dentry));
	return 0;
}

static const struct super_operations super_operations = {
	.statfs = simple_statfs, .drop_inode = generic_delete_inode,
};

static int fill(struct super_block *super, struct fs_context *context)
{
	struct inode *inode;
	struct dentry *info;

	super->s_magic = MAGIC;
	super->s_op = &super_operations;
	super->s_blocksize = PAGE_SIZE;
	super->s_blocksize_bits = PAGE_SHIFT;
	inode = make_inode(super, S_IFDIR | 0755, NULL);
	if (!inode)
		return -ENOMEM;
	inode->i_op = &group_directory;
	super->s_root = d_make_root(inode);
	root_group = new_group(NULL);
	if (!super->s_root || IS_ERR(root_group))
		return -ENOMEM;
	info = add(super->s_root, "info", S_IFDIR | 0555, NULL);
	if (IS_ERR(info) || fill_group(super->s_root, root_group) || add_files(info, of_info, root_group, 0) ||
	    add_directory(info, "L3", of_cache, root_group, 0) ||
	    add_directory(info, "MB", of_bandwidth, root_group, 0) ||
	    add_directory(info, "L3_MON", of_monitoring, root_group, 0))
		return -ENOMEM;
	return 0;
}

/* There is one, and it is mounted once. */
static int get_tree(struct fs_context *context)
{
	int result;

	if (xchg(&mounted, true))
		return -EBUSY;
	result = get_tree_nodev(context, fill);
	if (result)
		mounted = false;
	return result;
}

static const struct fs_context_operations context_operations = { .get_tree = get_tree };

static int init_context(struct fs_context *context)
{
	context->ops = &context_operations;
	return 0;
}

/* All tasks go back to where they are on a machine without resctrl. */
static void kill(struct super_block *super)
{
	struct group *group, *next;

	kill_litter_super(super);
	mutex_lock(&lock);
	list_for_each_entry(group, &groups, all)
		if (!group->removed && !IS_ERR(root_group))
			for_members(group, root_group);
	list_for_each_entry_safe(group, next, &groups, all) {
		list_del(&group->all);
		kfree(group);
	}
	root_group = NULL;
	while (nodes) {
		struct node *node = nodes;

		nodes = node->next;
		kfree(node);
	}
	mounted = false;
	mutex_unlock(&lock);
}

static struct file_system_type resctrl = {
	.owner = THIS_MODULE, .name = "resctrl", .init_fs_context = init_context, .kill_sb = kill,
};

static int __init start(void)
{
	int result = sysfs_create_mount_point(fs_kobj, "resctrl");

	if (!result) {
		result = register_filesystem(&resctrl);
		if (result)
			sysfs_remove_mount_point(fs_kobj, "resctrl");
	}
	return result;
}

static void __exit stop(void)
{
	unregister_filesystem(&resctrl);
	sysfs_remove_mount_point(fs_kobj, "resctrl");
}

module_init(start);
module_exit(stop);
MODULE_DESCRIPTION("A stand-in for resctrl that controls nothing");
MODULE_LICENSE("GPL");
