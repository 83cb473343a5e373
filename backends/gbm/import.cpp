// Importing foreign buffers as bos of this device.
#include "impl.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include <gbm.h>

namespace dmaflow::gbm {
namespace {

/// The handles of a buffer's objects in this file, which we hold during the import. GBM gets the same handles from the
/// kernel, and closes those that it keeps.
class Handles {
 public:
  explicit Handles(GemRegistry::Session& session) : session_(session) {}
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;
  ~Handles() {
    for (std::uint32_t i = 0; i < count_; ++i) session_.release(handles_[i]);
  }
  /// 0 or -errno.
  [[nodiscard]] int import(const Buffer& buffer) {
    while (count_ < buffer.object_count()) {
      int error = 0;
      const std::uint32_t handle = session_.import(buffer.fd(count_), error);
      if (error < 0) return error;
      handles_[count_++] = handle;
    }
    return 0;
  }
  [[nodiscard]] std::span<const std::uint32_t> get() const noexcept { return std::span(handles_).first(count_); }

 private:
  GemRegistry::Session& session_;
  std::array<std::uint32_t, max_planes> handles_{};
  std::uint32_t count_ = 0;
};

/// GBM's bo for a buffer, and the handles that are closed with it.
class ImportedBo final : public Attachment {
 public:
  explicit ImportedBo(std::shared_ptr<GemRegistry> gem) noexcept : gem_(std::move(gem)) {}
  void tear_down() noexcept override {
    GemRegistry::Session session(*gem_);
    end(session);
  }
  /// Called with the file's lock held.
  void end(GemRegistry::Session& session) noexcept {
    bo_.reset();
    while (count_ > 0) session.forget(handles_[--count_]);
  }
  /// Marks a handle as one that GBM closes. False if another part of the program closes it.
  [[nodiscard]] bool hold(GemRegistry::Session& session, std::uint32_t handle, const void* owner) {
    if (!session.hold(handle, owner)) return false;
    handles_[count_++] = handle;
    return true;
  }
  void set(BoPointer bo) noexcept { bo_ = std::move(bo); }
  [[nodiscard]] gbm_bo* get() const noexcept { return bo_.get(); }
  /// Whether GBM's bo has this handle in our file. With some drivers the bo belongs to another file.
  [[nodiscard]] bool has(std::uint32_t handle) const noexcept {
    const int planes = gbm_bo_get_plane_count(bo_.get());
    for (int p = 0; p < planes; ++p) {
      if (gbm_bo_get_handle_for_plane(bo_.get(), p).u32 == handle) return true;
    }
    return false;
  }
  void drop(GemRegistry::Session& session, std::size_t index) noexcept {
    session.forget(handles_[index]);
    handles_[index] = handles_[--count_];
  }
  [[nodiscard]] std::span<const std::uint32_t> handles() const noexcept { return std::span(handles_).first(count_); }

 private:
  std::shared_ptr<GemRegistry> gem_;
  BoPointer bo_;
  std::array<std::uint32_t, max_planes> handles_{};
  std::size_t count_ = 0;
};

/// A single plane with an implicit modifier is imported without a modifier; everything else with its own.
gbm_bo* import_bo(gbm_device* device, const Buffer& buffer) {
  const Layout& layout = buffer.layout();
  if (layout.modifier.is_implicit() && layout.plane_count == 1 && layout.planes[0].offset == 0) {
    gbm_import_fd_data data{.fd = buffer.fd(0),
                            .width = layout.size.width,
                            .height = layout.size.height,
                            .stride = layout.planes[0].stride,
                            .format = layout.format.fourcc};
    return gbm_bo_import(device, GBM_BO_IMPORT_FD, &data, 0);
  }
  gbm_import_fd_modifier_data data{};
  data.width = layout.size.width;
  data.height = layout.size.height;
  data.format = layout.format.fourcc;
  data.num_fds = layout.plane_count;
  data.modifier = layout.modifier.value();
  for (std::uint32_t p = 0; p < layout.plane_count; ++p) {
    data.fds[p] = buffer.fd(layout.planes[p].object);
    data.strides[p] = static_cast<int>(layout.planes[p].stride);
    data.offsets[p] = static_cast<int>(layout.planes[p].offset);
  }
  return gbm_bo_import(device, GBM_BO_IMPORT_FD_MODIFIER, &data, 0);
}

Error import_refused(const GbmFile& file, int error, const Buffer& buffer) {
  Error result = file.error(error, "DRM_IOCTL_PRIME_FD_TO_HANDLE");
  const std::string_view origin = buffer.origin();
  const bool takes_none = error == -ENODEV || error == -EINVAL;
  result.detail("a buffer of %.*s%s", static_cast<int>(origin.size()), origin.data(),
                takes_none         ? ": this driver takes no memory made elsewhere"
                : error == -ENOSYS ? ": its maker tells no other device where its pages are"
                                   : "");
  return result;
}

Error held_by_another(const GbmFile& file) {
  return file.error(-EBUSY, "gbm_bo_import")
      .detail(
          "the program or another gbm_device has this buffer's handle in the same DRM file, and GBM would close it: "
          "use a gbm::Device with a file of its own");
}

Error bo_refused(const GbmFile& file, int code, const Buffer& buffer) {
  const Layout& layout = buffer.layout();
  const bool is_known = gbm_device_is_format_supported(file.device, layout.format.fourcc, 0) != 0;
  return file.error(code > 0 ? -code : -EINVAL, "gbm_bo_import")
      .detail("%s: %s", layout.describe().c_str(),
              is_known ? "the driver takes no buffer like it" : "the driver does not know this format");
}

/// The import itself, under the file's lock.
Result<std::unique_ptr<ImportedBo>> make(const GbmFile& file, const Buffer& buffer) {
  const void* const owner = file.device;
  GemRegistry::Session session(*file.gem);
  auto imported = std::make_unique<ImportedBo>(file.gem);
  Handles handles(session);
  if (const int error = handles.import(buffer); error < 0) return std::unexpected(import_refused(file, error, buffer));
  for (const std::uint32_t handle : handles.get()) {
    const bool is_known = std::ranges::find(imported->handles(), handle) != imported->handles().end();
    if (is_known || imported->hold(session, handle, owner)) continue;
    imported->end(session);
    return std::unexpected(held_by_another(file));
  }
  errno = 0;
  imported->set(BoPointer(import_bo(file.device, buffer)));
  const int code = errno;
  if (imported->get() == nullptr) {
    imported->end(session);
    return std::unexpected(bo_refused(file, code, buffer));
  }
  for (std::size_t i = imported->handles().size(); i-- > 0;) {
    if (!imported->has(imported->handles()[i])) imported->drop(session, i);
  }
  return imported;
}

}  // namespace

Result<gbm_bo*> Device::import(const Buffer& buffer) {
  const GbmFile& file = impl_->file;
  if (auto alive = file.check_alive("import"); !alive) return std::unexpected(alive.error());
  if (const auto* known = attachment_as<ImportedBo>(buffer, *file.domain)) return known->get();
  auto imported = make(file, buffer);
  if (!imported) return std::unexpected(imported.error());
  auto attached = buffer.attach(file.domain, std::move(*imported));
  if (!attached) return std::unexpected(Error(attached.error()).device(file.name));
  return static_cast<ImportedBo*>(*attached)->get();
}

}  // namespace dmaflow::gbm
