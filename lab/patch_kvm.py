#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The lab's patch: lets a nested host's KVM read instructions and page tables from private memory.

usage: lab/patch_kvm.py apply|revert|show <kernel source tree>

TCG's SVM has neither NRIP_SAVE nor decode assists, so KVM must fetch and decode the guest's
instruction itself, and it reads guest memory through the slot's userspace address, which for a
private page is not the guest's memory. The lines added here take the page from the slot's
guest_memfd instead. Real hardware needs none of this; the patch is for the lab's kernel only.

Places are found by content, never by line number; a place that is missing or ambiguous is an
error. All of it is added lines between two markers, so that `revert` is exact.
"""

import dataclasses
import pathlib
import re
import sys

BEGIN = "/* cloister lab begin */\n"
END = "/* cloister lab end */\n"

_DECLARATION = """\
int lab_private_access(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn,
		       void *data, int offset, int len, bool write);
"""

# Returns 0 when the page is private and was accessed, 1 when it is not, -EFAULT when it failed.
_ACCESS = """\
int lab_private_access(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn,
		       void *data, int offset, int len, bool write)
{{
	struct page *page;
	kvm_pfn_t pfn;
	char *mapped;

	if (!slot || !{has_gmem}(slot))
		return 1;
	if ({always_private}!kvm_mem_is_private(kvm, gfn))
		return 1;
	if (kvm_gmem_get_pfn(kvm, slot, gfn, &pfn, {page}NULL))
		return -EFAULT;
	page = pfn_to_page(pfn);
	mapped = kmap_local_page(page);
	if (write)
		memcpy(mapped + offset, data, len);
	else
		memcpy(data, mapped + offset, len);
	kunmap_local(mapped);
	put_page(page);
	return 0;
}}
"""


def _access(header):
    """The function above in the words of a kernel version, going by its kvm_host.h."""
    return _ACCESS.format(
        has_gmem="kvm_slot_has_gmem" if "kvm_slot_has_gmem(" in header  # Since 6.17.
        else "kvm_slot_can_be_private",
        always_private="!kvm_memslot_is_gmem_only(slot) && "  # Since 6.18.
        if "kvm_memslot_is_gmem_only(" in header else "",
        # Since 6.13 the page is handed out beside its number.
        page="&page, " if re.search(r"int kvm_gmem_get_pfn\([^;]*struct page \*\*", header) else "")


def _call(kvm, slot, data, write):
    return (f"	{{\n		int lab = lab_private_access({kvm}, {slot}, gfn, {data}, offset,\n"
            f"					     len, {write});\n\n"
            "		if (lab <= 0)\n			return lab;\n	}\n")


_WALK = """\
		ret = lab_private_access(vcpu->kvm, slot, gpa_to_gfn(real_gpa), &pte, offset,
					 sizeof(pte), false);
		if (ret < 0)
			goto error;
		if (!ret) {
			walker->pte_writable[walker->level - 1] = false;
			walker->ptep_user[walker->level - 1] = NULL;
			goto lab_have_pte;
		}
"""


@dataclasses.dataclass
class Addition:
    """Lines to add before or after the one match of `anchor` in a file.

    `text` is the lines, or a function that makes them of the text of kvm_host.h.
    """

    path: str
    anchor: str
    text: object
    before: bool = False


ADDITIONS = (
    Addition("include/linux/kvm_host.h",
             r"^static inline bool kvm_slot_(has_gmem|can_be_private)\([^{]*\{[^}]*\}\n",
             _DECLARATION),
    Addition("virt/kvm/kvm_main.c", r"^static int __kvm_read_guest_page\(", _access, before=True),
    Addition("virt/kvm/kvm_main.c",
             r"^int kvm_read_guest_page\([^{]*\{\n\tstruct kvm_memory_slot \*slot = [^;]*;\n\n",
             _call("kvm", "slot", "data", "false")),
    Addition("virt/kvm/kvm_main.c",
             r"^int kvm_vcpu_read_guest_page\([^{]*\{\n"
             r"\tstruct kvm_memory_slot \*slot = [^;]*;\n\n",
             _call("vcpu->kvm", "slot", "data", "false")),
    Addition("virt/kvm/kvm_main.c",
             r"^static int __kvm_write_guest_page\([^{]*\{\n\tint r;\n\tunsigned long addr;\n\n"
             r"\tif \(WARN_ON_ONCE\(offset \+ len > PAGE_SIZE\)\)\n\t\treturn -EFAULT;\n\n",
             _call("kvm", "memslot", "(void *)data", "true")),
    Addition("arch/x86/kvm/mmu/paging_tmpl.h",
             r"^\t\thost_addr = gfn_to_hva_memslot_prot\(slot, gpa_to_gfn\(real_gpa\),", _WALK,
             before=True),
    Addition("arch/x86/kvm/mmu/paging_tmpl.h",
             r"^\t\twalker->ptep_user\[walker->level - 1\] = ptep_user;\n", "lab_have_pte:\n"),
)


class PatchError(Exception):
    """A place was not found exactly once. One line."""


def _strip(text):
    return re.sub(re.escape(BEGIN) + r".*?" + re.escape(END), "", text, flags=re.DOTALL)


def _add(text, addition, header):
    matches = list(re.finditer(addition.anchor, text, re.MULTILINE))
    if len(matches) != 1:
        raise PatchError(f"the lab's patch does not fit: {addition.path} has {len(matches)} "
                         f"matches of {addition.anchor!r}, not 1")
    at = matches[0].start() if addition.before else matches[0].end()
    added = addition.text(header) if callable(addition.text) else addition.text
    return text[:at] + BEGIN + added + END + text[at:]


def _files():
    return sorted({addition.path for addition in ADDITIONS})


def patched(tree):
    """{path: new text} for every file the patch touches; raises PatchError. Writes nothing."""
    result = {}
    for path in _files():
        file = pathlib.Path(tree) / path
        if not file.exists():
            raise PatchError(f"the lab's patch does not fit: there is no {path}")
        result[path] = _strip(file.read_text(encoding="utf-8"))
    header = result["include/linux/kvm_host.h"]
    for addition in ADDITIONS:
        result[addition.path] = _add(result[addition.path], addition, header)
    return result


def apply(tree):
    """Patches the tree; all files or none."""
    for path, text in patched(tree).items():
        (pathlib.Path(tree) / path).write_text(text, encoding="utf-8")


def revert(tree):
    """Takes the added lines out again; leaves files alone that have none."""
    for path in _files():
        file = pathlib.Path(tree) / path
        if file.exists() and BEGIN in (text := file.read_text(encoding="utf-8")):
            file.write_text(_strip(text), encoding="utf-8")


def main(argv):
    if len(argv) != 2 or argv[0] not in ("apply", "revert", "show"):
        print(__doc__.strip().split("\n\n")[1], file=sys.stderr)
        return 2
    try:
        if argv[0] == "show":
            for path, text in patched(argv[1]).items():
                for added in re.findall(re.escape(BEGIN) + "(.*?)" + re.escape(END), text,
                                        re.DOTALL):
                    print(f"--- {path}\n{added}", end="")
        else:
            (apply if argv[0] == "apply" else revert)(argv[1])
    except PatchError as error:
        print(f"lab: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
