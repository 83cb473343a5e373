#include "support.hpp"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>

namespace dmaflow::test {

FailNth::FailNth(std::size_t nth, int error, std::string name, unsigned long request)
    : nth_(nth), error_(error), name_(std::move(name)), request_(request) {
  sys::set_hook(this);
}

FailNth::~FailNth() { sys::set_hook(nullptr); }

int FailNth::before(const sys::Call& call) noexcept {
  if (!name_.empty() && name_ != call.name) return 0;
  if (request_ != 0 && request_ != call.request) return 0;
  return ++calls_ == nth_ ? error_ : 0;
}

std::set<std::string> open_fds() {
  std::set<std::string> result;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    const auto target = std::filesystem::read_symlink(entry.path(), error);
    if (error) continue;                                // the directory's own descriptor, already closed
    if (target.string().find("/proc/") == 0) continue;  // the same, still open
    result.insert(entry.path().filename().string() + " -> " + target.string());
  }
  return result;
}

std::vector<std::string> device_mappings() {
  std::vector<std::string> result;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("dmabuf") != std::string::npos || line.find("/dev/video") != std::string::npos ||
        line.find("/dev/dri") != std::string::npos) {
      result.push_back(line);
    }
  }
  return result;
}

long live_dma_bufs() {
  std::ifstream info("/sys/kernel/debug/dma_buf/bufinfo");
  if (!info) return -1;
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("Total ", 0) == 0) return std::strtol(line.c_str() + 6, nullptr, 10);  // "Total 3 objects, ..."
  }
  return -1;
}

LeakCheck::LeakCheck() : fds_(open_fds()), mappings_(device_mappings()), dma_bufs_(live_dma_bufs()) {}

LeakCheck::~LeakCheck() {
  EXPECT_EQ(open_fds(), fds_) << "descriptors leaked";
  EXPECT_EQ(device_mappings(), mappings_) << "mappings leaked";
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (live_dma_bufs() != dma_bufs_ && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(live_dma_bufs(), dma_bufs_) << "dma-bufs leaked in the kernel";
}

void observe(std::string_view fact, std::string_view value, std::string_view page) {
  std::cout << "observed: " << fact << ": " << value << '\n';
  const char* path = std::getenv("DMAFLOW_OBSERVED");
  if (path == nullptr) return;
  std::ofstream file(path, std::ios::app);
  file << fact << '\t' << value << '\t' << page << '\n' << std::flush;
  EXPECT_TRUE(file) << "cannot write to " << path;
}

std::string outcome(const Error& error) {
  const char* name = ::strerrorname_np(error.code());  // null for codes that are not an errno, such as Vulkan's
  return std::string(error.operation()) + " " + (name != nullptr ? name : std::to_string(error.code()));
}

bool in_lab() { return std::getenv("DMAFLOW_LAB") != nullptr; }

}  // namespace dmaflow::test
