#include <dmaflow/heap.hpp>

#include "access_help.hpp"
#include "memory.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <span>

#include <fcntl.h>
#include <linux/dma-heap.h>

namespace dmaflow::heap {
namespace {

using enum Answer;

struct Row {
  std::string_view name;
  Properties properties;
  const char* origin;  ///< for Buffer::Options, which needs static storage
};

constexpr Row known_names[] = {
    {"system", {.contiguous = no, .cached = yes, .is_protected = no}, "heap:system"},
    {"default_cma_region", {.contiguous = yes, .cached = yes, .is_protected = no}, "heap:default_cma_region"},
    {"reserved", {.contiguous = yes, .cached = yes, .is_protected = no}, "heap:reserved"},
    {"linux,cma", {.contiguous = yes, .cached = yes, .is_protected = no}, "heap:linux,cma"},
    {"default-pool", {.contiguous = yes, .cached = yes, .is_protected = no}, "heap:default-pool"},
    {"system-uncached", {.contiguous = no, .cached = no, .is_protected = no}, "heap:system-uncached"},
};

const Row* find_row(std::string_view name) noexcept {
  const auto found = std::ranges::find(known_names, name, &Row::name);
  return found == std::end(known_names) ? nullptr : found;
}

std::string names_of(const std::vector<Info>& heaps) {
  std::string names;
  for (const Info& heap : heaps) names.append(names.empty() ? "" : ", ").append(heap.name);
  return names;
}

constexpr const char* kernel_help =
    "the kernel has no dma-heaps: it needs CONFIG_DMABUF_HEAPS with CONFIG_DMABUF_HEAPS_SYSTEM (where that is a "
    "module: "
    "modprobe system_heap) or CONFIG_DMABUF_HEAPS_CMA";

/// The error for a heap that does not exist: says which heaps do.
Error missing(const std::string& path, const Options& options) {
  Error error = Error::os(ENOENT, "open", path);
  const auto heaps = list(options);
  if (heaps.empty()) return error.detail("%s", kernel_help);
  return error.detail("the heaps of this machine are: %s", names_of(heaps).c_str());
}

Error cannot_open(int code, const std::string& path, const std::string& name, const Options& options) {
  if (code == ENOENT) return missing(path, options);
  Error error = Error::os(code, "open", path);
  if (code == EACCES || code == EPERM) {
    const std::string match = "SUBSYSTEM==\"dma_heap\", KERNEL==\"" + name + "\"";
    error.detail("%s", detail::access_help(path, match).c_str());
  }
  return error;
}

bool meets(Answer wanted, Answer known) noexcept { return wanted == unknown || wanted == known; }

bool meets(const Wish& wish, const Properties& properties) noexcept {
  return meets(wish.contiguous, properties.contiguous) && meets(wish.cached, properties.cached) &&
         meets(wish.is_protected, properties.is_protected);
}

std::string describe(const Wish& wish) {
  std::string text;
  const auto add = [&](Answer wanted, const char* word) {
    if (wanted != unknown) text.append(text.empty() ? "" : ", ").append(wanted == no ? "not " : "").append(word);
  };
  add(wish.contiguous, "contiguous");
  add(wish.cached, "cached");
  add(wish.is_protected, "protected");
  return text;
}

}  // namespace

Properties properties_of(std::string_view name) noexcept {
  if (const Row* row = find_row(name)) return row->properties;
  Properties properties;
  const auto says = [&](std::string_view word) { return name.find(word) != std::string_view::npos; };
  if (says("contiguous")) properties.contiguous = yes;
  if (says("protected") || says("restricted")) properties.is_protected = yes;
  return properties;
}

std::vector<Info> list(const Options& options) {
  std::vector<Info> heaps;
  std::error_code error;
  std::filesystem::directory_iterator entry(options.directory, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    heaps.push_back({name, properties_of(name)});
  }
  std::ranges::sort(heaps, {}, &Info::name);
  return heaps;
}

Result<std::unique_ptr<Allocator>> Allocator::open(std::string_view name, const Options& options) {
  const std::string own_name(name);
  const std::string path = options.directory + "/" + own_name;
  if (name.empty() || name.find('/') != std::string_view::npos) {
    return std::unexpected(Error::os(EINVAL, "open", path).detail("\"%s\" is no heap's name", own_name.c_str()));
  }
  // Allocating needs no write access; the descriptor of the buffer has its own access mode.
  const int fd = sys::open(path.c_str(), O_RDONLY);
  if (fd < 0) return std::unexpected(cannot_open(-fd, path, own_name, options));
  return std::unique_ptr<Allocator>(new Allocator(own_name, Fd::adopt(fd)));
}

Result<std::unique_ptr<Allocator>> Allocator::open_with(const Wish& wish, const Options& options) {
  std::vector<Info> heaps = list(options);
  std::ranges::stable_partition(heaps, [](const Info& heap) { return heap.name == "system"; });
  std::unexpected<Error> first_refusal(missing(options.directory, options));
  bool any = false;
  for (const Info& heap : heaps) {
    if (!meets(wish, heap.properties)) continue;
    auto opened = open(heap.name, options);
    if (opened) return opened;
    if (!any) first_refusal = std::unexpected(opened.error());
    any = true;
  }
  if (!any && !heaps.empty()) {
    first_refusal.error().detail("no heap is known to be %s; the heaps of this machine are: %s", describe(wish).c_str(),
                                 names_of(heaps).c_str());
  }
  return first_refusal;
}

Allocator::Allocator(std::string name, Fd fd)
    : name_("heap:" + name), properties_(properties_of(name)), fd_(std::move(fd)) {}

MemoryTraits Allocator::traits() const noexcept {
  return {.contiguous = properties_.contiguous == yes,
          .cached = properties_.cached == yes,
          .is_protected = properties_.is_protected == yes};
}

Result<std::vector<Buffer>> Allocator::allocate(const Request& request) {
  if (const auto checked = check_request(request, name_); !checked) return std::unexpected(checked.error());
  if (request.constraints.contiguous && properties_.contiguous == no) {
    return std::unexpected(
        Error::os(EINVAL, "allocate", name_)
            .detail("contiguous memory is asked for, and this heap's is not; a CMA heap's would be"));
  }
  const auto layout = linear_layout(request, name_);
  if (!layout) return std::unexpected(layout.error());

  const Row* row = find_row(std::string_view(name_).substr(5));
  const Buffer::Options options{.is_protected = traits().is_protected, .origin = row != nullptr ? row->origin : "heap"};
  const auto sizes = layout->object_sizes(request.constraints);
  // A CMA heap has a region of its own, and returns an error itself when that is full.
  if (properties_.contiguous != yes) {
    const auto checked = detail::check_memory(sizes, request.count, name_);
    if (!checked) return std::unexpected(checked.error());
  }
  return detail::make_buffers(*layout, sizes, request.count, options,
                              [this](std::uint64_t size) { return allocate_object(size); });
}

Result<Fd> Allocator::allocate_object(std::uint64_t size) const {
  dma_heap_allocation_data data{};
  data.len = size;  // the kernel rounds it up to whole pages
  data.fd_flags = O_CLOEXEC | O_RDWR;
  const int result = sys::ioctl(fd_.get(), DMA_HEAP_IOCTL_ALLOC, &data);
  if (result < 0) {
    Error error = Error::os(-result, "DMA_HEAP_IOCTL_ALLOC", name_);
    error.detail("%s %llu bytes", result == -ENOTTY ? "the file is no dma-heap; asked for" : "asked for",
                 static_cast<unsigned long long>(size));
    return std::unexpected(error);
  }
  return Fd::adopt(static_cast<int>(data.fd));
}

}  // namespace dmaflow::heap
