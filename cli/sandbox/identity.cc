// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/sandbox/identity.h"

#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <memory>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::cli {
namespace {

// The number that means "unchanged" to setresuid(2).
constexpr uint32_t kUnchanged = std::numeric_limits<uint32_t>::max();
constexpr size_t kLargestEntry = 1 << 20;
constexpr char kUsers[] = "/etc/passwd";
constexpr char kGroups[] = "/etc/group";

absl::Status Mistake(const char* option, const std::string& value,
                     absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(option, " ", value, ": ", what));
}

// The first entry of `path` that `wanted` accepts, as `use` sees it; false if
// there is none. `next` reads one: fgetpwent_r or fgetgrent_r.
template <typename Entry, typename Wanted, typename Use>
absl::StatusOr<bool> LookUp(const char* path,
                            int (*next)(std::FILE*, Entry*, char*, size_t,
                                        Entry**),
                            Wanted wanted, Use use) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "re"),
                                                       &std::fclose);
  if (file == nullptr) {
    if (errno == ENOENT) return false;
    return base::ErrnoStatus(errno, path);
  }
  std::vector<char> buffer(1024);
  for (;;) {
    Entry entry = {}, *found = nullptr;
    const long at = std::ftell(file.get());
    const int error =
        next(file.get(), &entry, buffer.data(), buffer.size(), &found);
    if (error == ENOENT) return false;
    if (error == ERANGE && buffer.size() < kLargestEntry) {
      buffer.resize(buffer.size() * 2);
      if (std::fseek(file.get(), at, SEEK_SET) == 0) continue;
    }
    if (error != 0) return base::ErrnoStatus(error, path);
    if (found == nullptr) return false;
    if (!wanted(entry)) continue;
    use(entry);
    return true;
  }
}

absl::StatusOr<uint32_t> ParseId(const char* option, const std::string& text,
                                 bool* is_number) {
  uint32_t id = 0;
  *is_number = text.find_first_not_of("0123456789") == std::string::npos;
  if (!*is_number) return id;
  if (!absl::SimpleAtoi(text, &id) || id == kUnchanged) {
    return Mistake(option, text, "not the number of an account");
  }
  return id;
}

absl::Status ResolveUser(const std::string& user, Identity* identity) {
  bool is_number = false;
  ASSIGN_OR_RETURN(uint32_t uid, ParseId("--user", user, &is_number));
  ASSIGN_OR_RETURN(const bool found, LookUp<passwd>(
                                         kUsers, &::fgetpwent_r,
                                         [&](const passwd& entry) {
                                           return is_number
                                                      ? entry.pw_uid == uid
                                                      : user == entry.pw_name;
                                         },
                                         [&](const passwd& entry) {
                                           uid = entry.pw_uid;
                                           if (!identity->gid.has_value())
                                             identity->gid = entry.pw_gid;
                                         }));
  if (!found && !is_number) {
    return Mistake("--user", user, absl::StrCat("no such user in ", kUsers));
  }
  if (uid == 0) return Mistake("--user", user, "root would keep everything");
  if (!identity->gid.has_value()) {
    return Mistake("--user", user, "no such account: --group is needed too");
  }
  identity->uid = uid;
  return absl::OkStatus();
}

absl::Status ResolveGroup(const std::string& group, Identity* identity) {
  bool is_number = false;
  ASSIGN_OR_RETURN(uint32_t gid, ParseId("--group", group, &is_number));
  if (!is_number) {
    ASSIGN_OR_RETURN(
        const bool found,
        LookUp<struct group>(
            kGroups, &::fgetgrent_r,
            [&](const struct group& entry) { return group == entry.gr_name; },
            [&](const struct group& entry) { gid = entry.gr_gid; }));
    if (!found) {
      return Mistake("--group", group,
                     absl::StrCat("no such group in ", kGroups));
    }
  }
  identity->gid = gid;
  return absl::OkStatus();
}

absl::Status Denied(const char* option, const char* call) {
  const int error = errno;
  return absl::PermissionDeniedError(
      absl::StrCat(option, ": ", call, ": ", base::ErrnoName(error),
                   ": only root can become somebody else"));
}

absl::Status CheckNoCapabilities() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) < 0) {
    return base::ErrnoStatus(errno, "capget");
  }
  for (const __user_cap_data_struct& half : data) {
    if ((half.effective | half.permitted) != 0) {
      return absl::InternalError("--user: capabilities are left");
    }
  }
  return absl::OkStatus();
}

// Each change of identity makes the kernel set this to what
// /proc/sys/fs/suid_dumpable says.
absl::Status StayUndumpable() {
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) {
    return base::ErrnoStatus(errno, "prctl PR_SET_DUMPABLE");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Identity> ResolveIdentity(const std::string& user,
                                         const std::string& group) {
  Identity identity;
  if (!group.empty()) RETURN_IF_ERROR(ResolveGroup(group, &identity));
  if (!user.empty()) RETURN_IF_ERROR(ResolveUser(user, &identity));
  return identity;
}

absl::Status EmptyBoundingSet() {
  for (int capability = 0; capability <= 63; ++capability) {
    const int has = ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (has < 0) break;  // The kernel knows no more.
    if (has == 0) continue;
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
      if (errno == EPERM) return absl::OkStatus();
      return base::ErrnoStatus(errno, "prctl PR_CAPBSET_DROP");
    }
  }
  return absl::OkStatus();
}

absl::Status BecomeIdentity(const Identity& identity) {
  if (identity.gid.has_value()) {
    // Somebody who is not root may keep the one identity that it has.
    if (::setgroups(0, nullptr) < 0 && (errno != EPERM || ::geteuid() == 0)) {
      return Denied("--group", "setgroups");
    }
    const gid_t gid = *identity.gid;
    if (::setresgid(gid, gid, gid) < 0) return Denied("--group", "setresgid");
    RETURN_IF_ERROR(StayUndumpable());
  }
  if (!identity.uid.has_value()) return absl::OkStatus();
  const uid_t uid = *identity.uid;
  if (::setresuid(uid, uid, uid) < 0) return Denied("--user", "setresuid");
  uid_t real, effective, saved;
  if (::getresuid(&real, &effective, &saved) < 0 || real != uid ||
      effective != uid || saved != uid) {
    return absl::InternalError("--user: the user did not change");
  }
  RETURN_IF_ERROR(CheckNoCapabilities());
  return StayUndumpable();
}

}  // namespace cloister::cli
