// V4L2 devices as rows and columns. Their formats, rates and rectangles are restored, and no other input is selected.
#include "probe_party_kinds.hpp"

#include <algorithm>
#include <optional>

#include <fcntl.h>
#include <linux/videodev2.h>
#include <sys/ioctl.h>

using namespace dmaflow;

namespace {

/// Saves the format, rate and rectangles of a V4L2 device and restores them at the end, because the driver keeps them
/// after the program has ended.
class KeptFormat {
 public:
  explicit KeptFormat(const v4l2::DeviceInfo& info)
      : fd_(Fd::adopt(::open(info.path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC))),
        format_(get(VIDIOC_G_FMT, v4l2_format{.type = type_of(info, info.multiplanar), .fmt = {}})),
        rate_(get(VIDIOC_G_PARM, v4l2_streamparm{.type = type_of(info, info.multiplanar), .parm = {}})),
        crop_(get(VIDIOC_G_SELECTION, rectangle(info, V4L2_SEL_TGT_CROP))),
        compose_(get(VIDIOC_G_SELECTION, rectangle(info, V4L2_SEL_TGT_COMPOSE))) {}
  KeptFormat(const KeptFormat&) = delete;
  KeptFormat& operator=(const KeptFormat&) = delete;
  ~KeptFormat() {
    put(VIDIOC_S_FMT, format_);
    put(VIDIOC_S_PARM, rate_);
    put(VIDIOC_S_SELECTION, crop_);
    put(VIDIOC_S_SELECTION, compose_);
  }

 private:
  static std::uint32_t type_of(const v4l2::DeviceInfo& info, bool multiplanar) noexcept {
    if (info.capture) return multiplanar ? V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE : V4L2_BUF_TYPE_VIDEO_CAPTURE;
    return multiplanar ? V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE : V4L2_BUF_TYPE_VIDEO_OUTPUT;
  }
  /// Selections use the single-planar types, also for multi-planar devices.
  static v4l2_selection rectangle(const v4l2::DeviceInfo& info, std::uint32_t target) noexcept {
    v4l2_selection selection{};
    selection.type = type_of(info, false);
    selection.target = target;
    return selection;
  }
  template <typename T>
  [[nodiscard]] std::optional<T> get(unsigned long request, T value) const noexcept {
    if (!fd_ || ::ioctl(fd_.get(), request, &value) != 0) return std::nullopt;
    return value;
  }
  template <typename T>
  void put(unsigned long request, std::optional<T>& value) const noexcept {
    if (value) ::ioctl(fd_.get(), request, &*value);
  }

  Fd fd_;
  std::optional<v4l2_format> format_;
  std::optional<v4l2_streamparm> rate_;
  std::optional<v4l2_selection> crop_;
  std::optional<v4l2_selection> compose_;
};

/// The number of the port in use. The device is opened with this number so that it keeps the port.
std::string current_port(const Result<std::vector<v4l2::Port>>& ports) {
  if (!ports) return {};
  const auto current = std::ranges::find(*ports, true, &v4l2::Port::is_current);
  return current == ports->end() ? "" : std::to_string(current->index);
}

struct SharedCamera {
  SharedCamera(const v4l2::DeviceInfo& info, std::unique_ptr<v4l2::Camera> opened)
      : kept(info), camera(std::move(opened)) {}
  KeptFormat kept;  // destroyed after the camera, which owns the device's queue
  std::unique_ptr<v4l2::Camera> camera;
};

/// The uncompressed formats that a V4L2 device lists.
std::vector<FormatModifier> pixels_of(const std::vector<v4l2::Format>& formats) {
  std::vector<FormatModifier> result;
  for (const auto& format : formats) {
    if (format.known && !format.compressed) result.push_back({format.format, format.modifier});
  }
  return result;
}

/// Sets the camera to the stream, or else to the same format in one of the camera's own sizes.
Result<StreamConfig> set_camera(v4l2::Camera& camera, const StreamConfig& config) {
  StreamRequest request{.size = config.layout.size, .formats = {config.layout.format}};
  auto offers = camera.offers(request);
  if (!offers) {
    request.size.reset();
    if (auto others = camera.offers(request)) offers = std::move(others);
  }
  if (!offers) return std::unexpected(offers.error());
  StreamConfig wanted = offers->front();
  if (wanted.layout.size == config.layout.size) wanted.layout = config.layout;
  if (auto set = camera.set_output(wanted); !set) return std::unexpected(set.error());
  return camera.output();
}

class CameraMaker final : public Maker {
 public:
  CameraMaker(Party who, std::shared_ptr<SharedCamera> shared)
      : Maker(std::move(who)), shared_(std::move(shared)), camera_(*shared_->camera) {}

  [[nodiscard]] bool makes(PixelFormat format) override {
    const auto formats = camera_.formats();
    return formats && std::ranges::find(*formats, format, &v4l2::Format::format) != formats->end();
  }
  Result<std::vector<Buffer>> make(const StreamConfig& config, const std::vector<Modifier>& modifiers,
                                   std::uint32_t count) override {
    auto set = set_camera(camera_, config);
    if (!set) return std::unexpected(set.error());
    return camera_.output_allocator()->allocate({.size = set->layout.size,
                                                 .format = set->layout.format,
                                                 .modifiers = modifiers,
                                                 .count = count,
                                                 .constraints = {}});
  }

 private:
  std::shared_ptr<SharedCamera> shared_;
  v4l2::Camera& camera_;
};

class CameraUser final : public User {
 public:
  CameraUser(Party who, std::shared_ptr<SharedCamera> shared)
      : User(std::move(who)), shared_(std::move(shared)), camera_(*shared_->camera) {}

  Result<std::vector<FormatModifier>> formats() override {
    auto formats = camera_.formats();
    if (!formats) return std::unexpected(formats.error());
    return pixels_of(*formats);
  }
  [[nodiscard]] Size size() const override { return usual_size; }
  Result<StreamConfig> prepare(const StreamConfig& config) override { return set_camera(camera_, config); }
  Result<std::string> import(const Buffer& buffer) override {
    if (auto tried = camera_.try_output(buffer); !tried) return std::unexpected(tried.error());
    return {};
  }

 private:
  std::shared_ptr<SharedCamera> shared_;
  v4l2::Camera& camera_;
};

class OutputUser final : public User {
 public:
  OutputUser(Party who, const v4l2::DeviceInfo& info, std::unique_ptr<v4l2::Output> output)
      : User(std::move(who)), kept_(info), output_(std::move(output)) {}

  Result<std::vector<FormatModifier>> formats() override {
    auto formats = output_->formats();
    if (!formats) return std::unexpected(formats.error());
    return pixels_of(*formats);
  }
  [[nodiscard]] Size size() const override { return usual_size; }
  /// An output accepts only the size that its connector sends: tries the requested size, then the usual ones in turn.
  Result<StreamConfig> prepare(const StreamConfig& config) override {
    const auto first = try_to_configure(config);
    if (first) return first;
    for (const Size size : {Size{1280, 720}, Size{720, 576}, Size{720, 480}, Size{1920, 1080}}) {
      StreamConfig other = config;
      other.layout.size = size;
      other.layout.planes = {};
      if (auto configured = try_to_configure(other)) return configured;
    }
    return first;
  }
  Result<std::string> import(const Buffer& buffer) override {
    if (auto imported = output_->import(buffer); !imported) return std::unexpected(imported.error());
    return {};
  }

 private:
  Result<StreamConfig> try_to_configure(const StreamConfig& config) {
    StreamConfig whole = described(config);
    if (auto configured = output_->set_input(whole); !configured) return std::unexpected(configured.error());
    return whole;
  }
  KeptFormat kept_;
  std::unique_ptr<v4l2::Output> output_;
};

}  // namespace

void add_camera(Parties& all, const v4l2::DeviceInfo& info) {
  const Party party{"camera:" + info.path, "camera", file_name(info.path)};
  auto opened = v4l2::Camera::open(info.path);
  if (opened) {
    const v4l2::Camera::Options same{.input = current_port((*opened)->inputs())};
    opened->reset();
    opened = v4l2::Camera::open(info.path, same);
  }
  if (!opened) {
    all.makers.push_back(no_maker(party, opened.error()));
    all.users.push_back(no_user(party, opened.error()));
    return;
  }
  const auto shared = std::make_shared<SharedCamera>(info, std::move(*opened));
  all.makers.push_back(std::make_unique<CameraMaker>(party, shared));
  all.users.push_back(std::make_unique<CameraUser>(party, shared));
}

void add_output(Parties& all, const v4l2::DeviceInfo& info) {
  const Party party{"output:" + info.path, "video output", file_name(info.path)};
  auto opened = v4l2::Output::open(info.path);
  if (opened) {
    const v4l2::Output::Options same{.output = current_port((*opened)->outputs())};
    opened->reset();
    opened = v4l2::Output::open(info.path, same);
  }
  if (opened) {
    all.users.push_back(std::make_unique<OutputUser>(party, info, std::move(*opened)));
  } else {
    all.users.push_back(no_user(party, opened.error()));
  }
}
