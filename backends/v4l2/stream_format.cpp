#include "stream_format.hpp"

#include <algorithm>
#include <cerrno>

namespace dmaflow::v4l2 {
namespace {

void fill(v4l2_format& raw, const Device& device, const Layout& layout, std::uint32_t code, bool separate) noexcept {
  raw.type = device.buffer_type();
  if (!device.multiplanar()) {
    raw.fmt.pix.width = layout.size.width;
    raw.fmt.pix.height = layout.size.height;
    raw.fmt.pix.pixelformat = code;
    raw.fmt.pix.field = V4L2_FIELD_NONE;
    raw.fmt.pix.bytesperline = layout.planes[0].stride;
    return;
  }
  v4l2_pix_format_mplane& pix = raw.fmt.pix_mp;
  pix.width = layout.size.width;
  pix.height = layout.size.height;
  pix.pixelformat = code;
  pix.field = V4L2_FIELD_NONE;
  pix.num_planes = static_cast<__u8>(separate ? std::max(layout.plane_count, 1U) : 1U);
  for (std::uint32_t i = 0; i < pix.num_planes && i < max_planes; ++i) {
    pix.plane_fmt[i].bytesperline = layout.planes[i].stride;
  }
}

Result<StreamFormat> ask(Operation operation, const Device& device, const Layout& layout, const Format& code) noexcept {
  v4l2_format raw{};
  fill(raw, device, layout, code.code, code.separate_objects);
  if (auto done = device.call(operation, &raw); !done) return std::unexpected(done.error());
  return StreamFormat::read(raw, device);
}

/// The stride of a further plane that shares the buffer with the first.
std::uint32_t stride_of(const FormatInfo& info, std::uint32_t plane, std::uint32_t first_stride) noexcept {
  const PlaneInfo& a = info.planes[0];
  const PlaneInfo& b = info.planes[plane];
  const std::uint64_t above = std::uint64_t{first_stride} * b.block_bytes * a.block_width * a.horizontal_sub;
  const std::uint64_t below = std::uint64_t{a.block_bytes} * b.block_width * b.horizontal_sub;
  return static_cast<std::uint32_t>(above / std::max<std::uint64_t>(below, 1));
}

}  // namespace

Result<StreamFormat> StreamFormat::get(const Device& device) noexcept {
  v4l2_format raw{};
  raw.type = device.buffer_type();
  if (auto done = device.call(DMAFLOW_V4L2_OP(VIDIOC_G_FMT), &raw); !done) return std::unexpected(done.error());
  return read(raw, device);
}

Result<StreamFormat> StreamFormat::set(const Device& device, const Layout& layout, const Format& code) noexcept {
  return ask(DMAFLOW_V4L2_OP(VIDIOC_S_FMT), device, layout, code);
}

Result<StreamFormat> StreamFormat::probe(const Device& device, const Layout& layout, const Format& code) noexcept {
  return ask(DMAFLOW_V4L2_OP(VIDIOC_TRY_FMT), device, layout, code);
}

Result<StreamFormat> StreamFormat::read(const v4l2_format& raw, const Device& device) noexcept {
  StreamFormat format;
  format.raw = raw;
  if (device.multiplanar()) {
    const v4l2_pix_format_mplane& pix = raw.fmt.pix_mp;
    if (pix.num_planes < 1 || pix.num_planes > max_planes) {
      return std::unexpected(device.error(EINVAL, "VIDIOC_G_FMT")
                                 .detail("the driver speaks of %u planes; dmaflow handles 1 to 4", pix.num_planes));
    }
    format.code = pix.pixelformat;
    format.size = {pix.width, pix.height};
    format.field = pix.field;
    format.planes = pix.num_planes;
    for (std::uint32_t i = 0; i < format.planes; ++i) {
      format.bytes_per_line[i] = pix.plane_fmt[i].bytesperline;
      format.size_image[i] = pix.plane_fmt[i].sizeimage;
    }
  } else {
    format.code = raw.fmt.pix.pixelformat;
    format.size = {raw.fmt.pix.width, raw.fmt.pix.height};
    format.field = raw.fmt.pix.field;
    format.bytes_per_line[0] = raw.fmt.pix.bytesperline;
    format.size_image[0] = raw.fmt.pix.sizeimage;
  }
  // either one V4L2 plane holds all planes of the format, or each holds one
  for (std::uint32_t i = 0; i < format.planes; ++i) format.first_plane[i] = i;
  return format;
}

ColorInfo StreamFormat::color(const Device& device) const noexcept {
  const V4l2Values values = v4l2_values(code);
  const auto read = [&](const auto& pix) {
    return color_from_v4l2(pix.colorspace, pix.ycbcr_enc, pix.quantization, pix.xfer_func, values);
  };
  return device.multiplanar() ? read(raw.fmt.pix_mp) : read(raw.fmt.pix);
}

Result<StreamConfig> StreamFormat::config(const Device& device) const noexcept {
  const V4l2Meaning meaning = from_v4l2(code);
  const FormatInfo* info = format_info(meaning.format);
  const auto refuse = [&](const char* reason) {
    return std::unexpected(device.error(EINVAL, "VIDIOC_S_FMT").detail("%s %s", meaning.format.code().c_str(), reason));
  };
  StreamConfig config;
  Layout& layout = config.layout;
  layout.size = size;
  layout.format = meaning.format;
  layout.modifier = meaning.modifier;
  for (std::uint32_t i = 0; i < planes; ++i) {
    if (size_image[i] == 0) return refuse("has sizeimage 0, says the driver");
    config.constraints.min_object_size[i] = size_image[i];
  }
  if (!meaning.known || info == nullptr || info->is_opaque || !meaning.modifier.is_linear()) {
    // Only the sizes in bytes are known: one plane for compressed formats, else as many as the driver has.
    layout.plane_count = planes;
    layout.opaque_bytes = size_image[0];  // those of the other planes are in the constraints
    for (std::uint32_t i = 0; i < planes; ++i) {
      layout.planes[i] = {
          .object = i, .offset = 0, .stride = info != nullptr && info->is_opaque ? 0 : bytes_per_line[i]};
    }
  } else if (planes > 1) {
    if (planes != info->plane_count) return refuse("comes in a number of planes the format does not have");
    layout.plane_count = planes;
    for (std::uint32_t i = 0; i < planes; ++i) {
      layout.planes[i] = {.object = i, .offset = 0, .stride = bytes_per_line[i]};
    }
  } else {
    layout.plane_count = info->plane_count;
    std::uint64_t offset = 0;
    for (std::uint32_t i = 0; i < info->plane_count; ++i) {
      layout.planes[i].stride = stride_of(*info, i, bytes_per_line[0]);
      layout.planes[i].offset = static_cast<std::uint32_t>(offset);
      offset += std::uint64_t{layout.planes[i].stride} * layout.rows(i);
      if (offset > size_image[0]) return refuse("does not fit the sizeimage the driver reports");
    }
  }
  config.constraints.separate_objects = planes > 1;
  if (layout.opaque_bytes == 0) {
    for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
      if (layout.planes[i].stride < layout.row_bytes(i))
        return refuse("has lines shorter than its pixels, says the driver");
      config.constraints.min_stride[i] = layout.planes[i].stride;
    }
  }
  config.color = color(device);
  return config;
}

Result<void> StreamFormat::check(const Buffer& buffer, const StreamConfig& config,
                                 const Device& device) const noexcept {
  const auto refuse = [&] { return device.error(EINVAL, "buffer"); };
  if (!buffer) return std::unexpected(refuse().detail("there is no buffer"));
  const Layout& want = config.layout;
  const Layout& have = buffer.layout();
  if (have.size != want.size || have.format != want.format || have.modifier != want.modifier ||
      have.plane_count != want.plane_count) {
    return std::unexpected(refuse().detail("the buffer is %ux%u %s %s, the stream %ux%u %s %s", have.size.width,
                                           have.size.height, have.format.code().c_str(), have.modifier.name().c_str(),
                                           want.size.width, want.size.height, want.format.code().c_str(),
                                           want.modifier.name().c_str()));
  }
  for (std::uint32_t i = 0; i < want.plane_count; ++i) {
    if (have.planes[i].stride != want.planes[i].stride || have.planes[i].offset != want.planes[i].offset) {
      return std::unexpected(refuse().detail("plane %u is at offset %u with stride %u, the device writes at %u with %u",
                                             i, have.planes[i].offset, have.planes[i].stride, want.planes[i].offset,
                                             want.planes[i].stride));
    }
    // planes of one V4L2 plane must lie in one object
    const std::uint32_t owner = planes > 1 ? i : 0;
    if (have.planes[i].object != object_of(buffer, owner)) {
      return std::unexpected(refuse().detail("plane %u lies in another dma-buf, and %s keeps all planes in one", i,
                                             want.format.code().c_str()));
    }
  }
  for (std::uint32_t i = 0; i < planes; ++i) {
    const std::uint64_t bytes = buffer.size(object_of(buffer, i));
    if (bytes < size_image[i]) {
      return std::unexpected(refuse().detail("the dma-buf of plane %u has %llu bytes, the device writes %u", i,
                                             static_cast<unsigned long long>(bytes), size_image[i]));
    }
    for (std::uint32_t j = 0; j < i; ++j) {
      if (object_of(buffer, i) == object_of(buffer, j)) {
        return std::unexpected(
            refuse().detail("planes %u and %u share a dma-buf; the device needs one for each", j, i));
      }
    }
  }
  return {};
}

}  // namespace dmaflow::v4l2
