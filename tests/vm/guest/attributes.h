/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Writable attributes for the kernel's sample driver mtty, which has none.
 *
 * The image script includes this file in the distribution's mtty.c and adds
 * VIRT_MDEV_TEST_GROUPS to its mdev_dev_groups[]. Every mtty device then has
 *
 *   settings/first    text, refused with E2BIG from 64 bytes on
 *   settings/second   text, refused with EINVAL when it begins with "bad"
 *   settings/log      read-only: every accepted write so far, in order
 *   plain             text, directly in the device's directory
 *   link              a symbolic link to "plain"
 *
 * Text must come without a newline (EINVAL), as the hook writes it.
 */
#include <linux/device.h>
#include <linux/mutex.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#define TEST_TEXT 64
#define TEST_LOG 1024

struct test_settings {
	char first[TEST_TEXT];
	char second[TEST_TEXT];
	char plain[TEST_TEXT];
	char log[TEST_LOG];
};

static DEFINE_MUTEX(test_lock);

static void test_settings_release(struct device *dev, void *res)
{
	/* Nothing but the memory itself, which devres frees. */
}

/*
 * The state hangs on the device as a device resource: made at the first
 * access, freed when the driver lets go of the device, so a device that is
 * made anew under the same uuid starts empty.
 */
static struct test_settings *test_settings(struct device *dev)
{
	void *fresh = devres_alloc(test_settings_release,
				   sizeof(struct test_settings), GFP_KERNEL);

	return fresh ? devres_get(dev, fresh, NULL, NULL) : NULL;
}

static ssize_t test_store(struct device *dev, const char *name, char *text,
			  struct test_settings *settings,
			  const char *buf, size_t count)
{
	size_t used;

	if (count >= TEST_TEXT)
		return -E2BIG;
	if (memchr(buf, '\n', count))
		return -EINVAL;

	mutex_lock(&test_lock);
	memcpy(text, buf, count);
	text[count] = '\0';
	used = strlen(settings->log);
	scnprintf(settings->log + used, TEST_LOG - used, "%s%s=%s",
		  used ? " " : "", name, text);
	mutex_unlock(&test_lock);
	return count;
}

#define TEST_SHOW(field)						\
static ssize_t test_##field##_show(struct device *dev,			\
				   struct device_attribute *attr,	\
				   char *buf)				\
{									\
	struct test_settings *settings = test_settings(dev);		\
									\
	return settings ? sysfs_emit(buf, "%s\n", settings->field)	\
			: -ENOMEM;					\
}

#define TEST_STORE(field, refused)					\
static ssize_t test_##field##_store(struct device *dev,			\
				    struct device_attribute *attr,	\
				    const char *buf, size_t count)	\
{									\
	struct test_settings *settings = test_settings(dev);		\
									\
	if (!settings)							\
		return -ENOMEM;						\
	if (refused)							\
		return -EINVAL;						\
	return test_store(dev, #field, settings->field, settings,	\
			  buf, count);					\
}

TEST_SHOW(first)
TEST_SHOW(second)
TEST_SHOW(plain)
TEST_SHOW(log)
TEST_STORE(first, false)
TEST_STORE(second, !strncmp(buf, "bad", 3))
TEST_STORE(plain, false)

static struct device_attribute test_attr_first =
	__ATTR(first, 0644, test_first_show, test_first_store);
static struct device_attribute test_attr_second =
	__ATTR(second, 0644, test_second_show, test_second_store);
static struct device_attribute test_attr_plain =
	__ATTR(plain, 0644, test_plain_show, test_plain_store);
static struct device_attribute test_attr_log =
	__ATTR(log, 0444, test_log_show, NULL);

static struct attribute *test_plain_attrs[] = {
	&test_attr_plain.attr,
	NULL,
};

static struct attribute *test_settings_attrs[] = {
	&test_attr_first.attr,
	&test_attr_second.attr,
	&test_attr_log.attr,
	NULL,
};

/*
 * Groups are created in the order of the array, and the kernel asks for the
 * visibility of each attribute while it creates its group (of the first one
 * twice). So when this group is asked about, "plain" is there to be linked to.
 */
static umode_t test_settings_visible(struct kobject *kobj,
				     struct attribute *attr, int index)
{
	if (attr == &test_attr_log.attr &&
	    compat_only_sysfs_link_entry_to_kobj(kobj, kobj, "plain", "link"))
		pr_warn("mtty: no link to the attribute plain\n");
	return attr->mode;
}

static const struct attribute_group test_plain_group = {
	.attrs = test_plain_attrs,
};

static const struct attribute_group test_settings_group = {
	.name = "settings",
	.attrs = test_settings_attrs,
	.is_visible = test_settings_visible,
};

#define VIRT_MDEV_TEST_GROUPS &test_plain_group, &test_settings_group
