#include <dmaflow/attachment.hpp>
#include <dmaflow/buffer.hpp>

#include "attachment_node.hpp"
#include "sys/sys.hpp"

#include <array>
#include <atomic>
#include <cerrno>

namespace dmaflow {

struct Buffer::Impl {
  Layout layout;
  Options options;
  std::uint32_t count = 0;
  std::array<Fd, max_planes> objects;
  std::array<ObjectId, max_planes> ids{};
  std::array<std::uint64_t, max_planes> sizes{};
  // Entries are only added while the buffer lives, so readers need no lock; removed devices leave empty entries.
  mutable std::atomic<AttachmentDomain::Node*> attachments{nullptr};

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl();

  /// The index of the object with this identity among those seen so far, or `count`.
  [[nodiscard]] std::uint32_t find(const ObjectId& id) const noexcept {
    std::uint32_t i = 0;
    while (i < count && ids[i] != id) ++i;
    return i;
  }
};

// The descriptors are closed after this body, so the dma-bufs are still alive while the attachments are torn down.
Buffer::Impl::~Impl() {
  auto* node = attachments.load(std::memory_order_acquire);
  while (node != nullptr) {
    const std::unique_ptr<AttachmentDomain::Node> owned(node);
    node = node->next_in_buffer;
    const auto domain = owned->domain;  // outlives the lock
    const std::lock_guard lock(domain->mutex_);
    if (owned->live.load(std::memory_order_relaxed)) owned->end();
  }
}

Result<Buffer> Buffer::create(const Layout& layout, std::span<Fd> objects) {
  return create(layout, objects, Options{});
}

Result<Buffer> Buffer::create(const Layout& layout, Fd& object, const Options& options) {
  return create(layout, std::span(&object, 1), options);
}

Result<Buffer> Buffer::create(const Layout& layout, std::span<Fd> objects, const Options& options) {
  if (objects.empty() || objects.size() > max_planes) {
    return std::unexpected(Error::os(EINVAL, "Buffer::create", options.origin)
                               .detail("%zu dma-bufs given; a buffer has 1 to %zu", objects.size(), max_planes));
  }
  auto impl = std::make_shared<Impl>();
  impl->layout = layout;
  impl->options = options;

  std::array<std::uint32_t, max_planes> renumbered{};
  std::array<std::size_t, max_planes> given{};  // the descriptor used for each distinct object
  for (std::size_t i = 0; i < objects.size(); ++i) {
    const int fd = objects[i].get();
    struct stat status{};
    if (const int result = sys::fstat(fd, &status); result < 0) {
      return std::unexpected(
          Error::os(-result, "fstat", options.origin).detail("descriptor %d given as dma-buf %zu", fd, i));
    }
    if (const int result = sys::is_dma_buf(fd); result != 1) {
      return std::unexpected(Error::os(result < 0 ? -result : EINVAL, "fstatfs", options.origin)
                                 .detail("descriptor %d is not a dma-buf", fd));
    }
    const ObjectId id{status.st_dev, status.st_ino};
    renumbered[i] = impl->find(id);
    if (renumbered[i] < impl->count) continue;  // a second descriptor of the same dma-buf
    const off_t size = sys::size_of(fd);
    if (size < 0) return std::unexpected(Error::os(static_cast<int>(-size), "lseek", options.origin));
    impl->ids[impl->count] = id;
    impl->sizes[impl->count] = static_cast<std::uint64_t>(size);
    given[impl->count] = i;
    ++impl->count;
  }
  for (std::uint32_t p = 0; p < layout.plane_count && p < max_planes; ++p) {
    if (layout.planes[p].object < objects.size()) impl->layout.planes[p].object = renumbered[layout.planes[p].object];
  }
  if (auto fits = impl->layout.validate(std::span(impl->sizes).first(impl->count)); !fits) {
    return std::unexpected(fits.error().device(options.origin));
  }
  for (std::uint32_t i = 0; i < impl->count; ++i) impl->objects[i] = std::move(objects[given[i]]);
  for (Fd& spare : objects) spare.reset();  // second descriptors of the same dma-bufs; the moved ones are empty
  return Buffer(std::move(impl));
}

const Layout& Buffer::layout() const noexcept {
  static constexpr Layout none{};
  return impl_ ? impl_->layout : none;
}
std::uint32_t Buffer::object_count() const noexcept { return impl_ ? impl_->count : 0; }
std::span<const Fd> Buffer::objects() const noexcept {
  if (!impl_) [[unlikely]]
    return {};
  return {impl_->objects.data(), impl_->count};
}
int Buffer::fd(std::uint32_t object) const noexcept { return has(object) ? impl_->objects[object].get() : -1; }
ObjectId Buffer::id(std::uint32_t object) const noexcept { return has(object) ? impl_->ids[object] : ObjectId{}; }
std::uint64_t Buffer::size(std::uint32_t object) const noexcept { return has(object) ? impl_->sizes[object] : 0; }
bool Buffer::has(std::uint32_t object) const noexcept { return impl_ && object < impl_->count; }
bool Buffer::is_protected() const noexcept { return impl_ && impl_->options.is_protected; }
std::string_view Buffer::origin() const noexcept { return impl_ ? impl_->options.origin : ""; }

Attachment* Buffer::attachment(const AttachmentDomain& domain) const noexcept {
  if (!impl_) [[unlikely]]
    return nullptr;
  const auto* node = impl_->attachments.load(std::memory_order_acquire);
  for (; node != nullptr; node = node->next_in_buffer) {
    if (node->domain.get() == &domain && node->live.load(std::memory_order_acquire)) return node->attachment.get();
  }
  return nullptr;
}

Result<Attachment*> Buffer::attach(const std::shared_ptr<AttachmentDomain>& domain,
                                   std::unique_ptr<Attachment> attachment) const {
  const std::lock_guard lock(domain->mutex_);
  if (!impl_) {
    attachment->tear_down();
    return std::unexpected(Error::os(EINVAL, "Buffer::attach").detail("the buffer is empty"));
  }
  if (domain->detached_) {
    attachment->tear_down();
    return std::unexpected(Error::os(ENODEV, "Buffer::attach").detail("the device was closed or detached"));
  }
  if (Attachment* earlier = this->attachment(*domain)) {
    attachment->tear_down();
    return earlier;
  }
  auto node = std::make_unique<AttachmentDomain::Node>();
  node->domain = domain;
  node->attachment = std::move(attachment);
  node->next = domain->nodes_;
  if (node->next != nullptr) node->next->previous = node.get();
  domain->nodes_ = node.get();
  ++domain->size_;

  auto* entry = node.release();  // owned by the buffer from here on
  entry->next_in_buffer = impl_->attachments.load(std::memory_order_relaxed);
  while (!impl_->attachments.compare_exchange_weak(entry->next_in_buffer, entry, std::memory_order_release,
                                                   std::memory_order_relaxed)) {
  }
  return entry->attachment.get();
}

}  // namespace dmaflow
