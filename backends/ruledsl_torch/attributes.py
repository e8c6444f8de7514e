"""The names that a layer has already. Imports no torch."""

ATTRIBUTES = frozenset(
    """
    add_module after_step apply arrived b backward_passes beside bfloat16 bias bias_or_zeros buffers call_super_init
    check_pass check_sends children classes clocked compile constraints cpu cuda dilation double downstream dphi
    draw_fresh drive driven dump_patches embedding_dim end_pass enforce eval example_axes extra_repr family float
    follow for_senders forward freeze from_pretrained get_buffer get_extra_state get_parameter get_submodule groups
    half hyperparameters in_channels in_features input_shape ipu keep kernel_size learn linear linear_map
    load_state_dict max_norm modules mtia named_buffers named_children named_modules named_parameters network
    norm_type num_embeddings optimizers out_channels out_features output_padding output_shape own_decay padding
    padding_idx padding_mode parameters path phi post_shape pre_shape program reached reads_out reads_phi receive
    refuse_transforms register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ reset_parameters rule ruledsl scale_grad_by_freq schedule sends
    set_extra_state set_submodule shape_of share_memory sparse start state_dict stride T_destination teaches to
    to_empty train training transposed type weight with_errors without_errors xpu zero_grad W
    """.split()  # noqa: SIM905
)
"""A tensor, parameter or phase of a rule takes an underscore instead. A test compares the list with torch."""
