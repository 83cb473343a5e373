#include "access_help.hpp"

#include "sys/sys.hpp"

#include <dmaflow/fd.hpp>

#include <array>
#include <cstdio>

#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

namespace dmaflow::detail {
namespace {

std::string group_name(gid_t id) {
  group entry{};
  group* found = nullptr;
  std::array<char, 4096> storage{};
  if (::getgrgid_r(id, &entry, storage.data(), storage.size(), &found) == 0 && found != nullptr) return entry.gr_name;
  return std::to_string(id);
}

}  // namespace

std::string access_help(const std::string& path, const std::string& udev_match) {
  const std::string rule = "a udev rule " + udev_match + R"(, GROUP="video", MODE="0660" in /etc/udev/rules.d)";
  const Fd file = Fd::adopt(sys::open(path.c_str(), O_PATH));  // needs no permission on the file itself
  struct stat status{};
  if (!file || sys::fstat(file.get(), &status) < 0) return rule + " would help";

  char mode[8];
  std::snprintf(mode, sizeof mode, "%04o", unsigned{status.st_mode & 07777U});
  const std::string group = group_name(status.st_gid);
  std::string text = "group " + group + " owns it with mode " + mode + "; ";
  const bool group_may = (status.st_mode & (S_IRGRP | S_IWGRP)) == (S_IRGRP | S_IWGRP) && status.st_gid != 0;
  text +=
      group_may ? "joining it helps (usermod -aG " + group + " USER, then log in again)" : rule + " lets that group in";
  return text;
}

}  // namespace dmaflow::detail
