// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/registry/rest"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kube-aggregator/pkg/registry/apiservice"
	apiservicestore "k8s.io/kube-aggregator/pkg/registry/apiservice/etcd"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	signingrequest "k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/devicetaintrule"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
)

// kind is how Kubernetes treats one kind: its strategies, by subresource.
type kind struct {
	gvk      schema.GroupVersionKind
	resource string
	main     strategies
	parts    map[string]rest.RESTUpdateStrategy
	begin    *allocating         // nil for all but Services
	printed  rest.TableConvertor // nil for all that is printed by the printers
	asked    schema.GroupVersion
}

type strategies interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

// upstream lists the kinds by name.
func upstream() (map[string]kind, error) {
	type parts = map[string]rest.RESTUpdateStrategy
	out := map[string]kind{}
	add := func(group, version, name, resource string, main strategies, p parts) {
		gvk := schema.GroupVersionKind{Group: group, Version: version, Kind: name}
		out[name] = kind{gvk: gvk, resource: resource, main: main, parts: p, asked: gvk.GroupVersion()}
	}
	const rbac = "rbac.authorization.k8s.io"
	add("", "v1", "Pod", "pods", pod.Strategy, parts{"status": pod.StatusStrategy, "resize": pod.ResizeStrategy, "ephemeralcontainers": pod.EphemeralContainersStrategy})
	add("", "v1", "Node", "nodes", node.Strategy, parts{"status": node.StatusStrategy})
	add("", "v1", "Namespace", "namespaces", namespace.Strategy, parts{"status": namespace.StatusStrategy, "finalize": namespace.FinalizeStrategy})
	add("", "v1", "ConfigMap", "configmaps", configmap.Strategy, nil)
	add("", "v1", "Secret", "secrets", secret.Strategy, nil)
	add("", "v1", "ServiceAccount", "serviceaccounts", serviceaccount.Strategy, nil)
	add("", "v1", "Event", "events", event.Strategy, nil)
	add("", "v1", "Service", "services", service.Strategy, parts{"status": service.StatusStrategy})
	add("", "v1", "Endpoints", "endpoints", endpoint.Strategy, nil)
	add("", "v1", "ReplicationController", "replicationcontrollers", replicationcontroller.Strategy, parts{"status": replicationcontroller.StatusStrategy})
	add("", "v1", "PodTemplate", "podtemplates", podtemplate.Strategy, nil)
	add("apps", "v1", "Deployment", "deployments", deployment.Strategy, parts{"status": deployment.StatusStrategy})
	add("apps", "v1", "StatefulSet", "statefulsets", statefulset.Strategy, parts{"status": statefulset.StatusStrategy})
	add("apps", "v1", "DaemonSet", "daemonsets", daemonset.Strategy, parts{"status": daemonset.StatusStrategy})
	add("apps", "v1", "ControllerRevision", "controllerrevisions", controllerrevision.Strategy, nil)
	add("apps", "v1", "ReplicaSet", "replicasets", replicaset.Strategy, parts{"status": replicaset.StatusStrategy})
	add("batch", "v1", "Job", "jobs", job.Strategy, parts{"status": job.StatusStrategy})
	add("batch", "v1", "CronJob", "cronjobs", cronjob.Strategy, parts{"status": cronjob.StatusStrategy})
	add("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", poddisruptionbudget.Strategy, parts{"status": poddisruptionbudget.StatusStrategy})
	add("coordination.k8s.io", "v1", "Lease", "leases", lease.Strategy, nil)
	add("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", endpointslice.Strategy, nil)
	add("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", priorityclass.Strategy, nil)
	add("networking.k8s.io", "v1", "Ingress", "ingresses", ingress.Strategy, parts{"status": ingress.StatusStrategy})
	add("networking.k8s.io", "v1", "IPAddress", "ipaddresses", ipaddress.Strategy, nil)
	add("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", servicecidr.Strategy, parts{"status": servicecidr.StatusStrategy})
	add("networking.k8s.io", "v1", "IngressClass", "ingressclasses", ingressclass.Strategy, nil)
	add("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", networkpolicy.Strategy, nil)
	add("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", runtimeclass.Strategy, nil)
	add(rbac, "v1", "Role", "roles", role.Strategy, nil)
	add(rbac, "v1", "ClusterRole", "clusterroles", clusterrole.Strategy, nil)
	add(rbac, "v1", "RoleBinding", "rolebindings", rolebinding.Strategy, nil)
	add(rbac, "v1", "ClusterRoleBinding", "clusterrolebindings", clusterrolebinding.Strategy, nil)
	const storage = "storage.k8s.io"
	add("", "v1", "PersistentVolume", "persistentvolumes", persistentvolume.Strategy, parts{"status": persistentvolume.StatusStrategy})
	add("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", persistentvolumeclaim.Strategy, parts{"status": persistentvolumeclaim.StatusStrategy})
	add(storage, "v1", "StorageClass", "storageclasses", storageclass.Strategy, nil)
	add(storage, "v1", "VolumeAttachment", "volumeattachments", volumeattachment.Strategy, parts{"status": volumeattachment.StatusStrategy})
	add(storage, "v1", "CSINode", "csinodes", csinode.Strategy, parts{"status": csinode.StatusStrategy})
	add(storage, "v1", "CSIDriver", "csidrivers", csidriver.Strategy, nil)
	add(storage, "v1", "CSIStorageCapacity", "csistoragecapacities", csistoragecapacity.Strategy, nil)
	add(storage, "v1", "VolumeAttributesClass", "volumeattributesclasses", volumeattributesclass.Strategy, nil)
	add("", "v1", "LimitRange", "limitranges", limitrange.Strategy, nil)
	add("", "v1", "ResourceQuota", "resourcequotas", resourcequota.Strategy, parts{"status": resourcequota.StatusStrategy})
	const admission = "admissionregistration.k8s.io"
	add(admission, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", validatingwebhookconfiguration.Strategy, nil)
	add(admission, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", mutatingwebhookconfiguration.Strategy, nil)
	vap := validatingadmissionpolicy.NewStrategy(nil, nil)
	add(admission, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", vap, parts{"status": validatingadmissionpolicy.NewStatusStrategy(vap)})
	add(admission, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", validatingadmissionpolicybinding.NewStrategy(nil, nil, nobody{}), nil)
	add(admission, "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", mutatingadmissionpolicy.NewStrategy(nil, nil), nil)
	add(admission, "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", mutatingadmissionpolicybinding.NewStrategy(nil, nil, nobody{}), nil)
	const certificates = "certificates.k8s.io"
	add(certificates, "v1", "CertificateSigningRequest", "certificatesigningrequests", signingrequest.Strategy, parts{"status": signingrequest.StatusStrategy, "approval": signingrequest.ApprovalStrategy})
	add(certificates, "v1", "ClusterTrustBundle", "clustertrustbundles", clustertrustbundle.Strategy, nil)
	const flow = "flowcontrol.apiserver.k8s.io"
	add(flow, "v1", "FlowSchema", "flowschemas", flowschema.Strategy, parts{"status": flowschema.StatusStrategy})
	add(flow, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", prioritylevelconfiguration.Strategy, parts{"status": prioritylevelconfiguration.StatusStrategy})
	const devices = "resource.k8s.io"
	claims := resourceclaim.NewStrategy(trusted{}, authorizerfactory.NewAlwaysAllowAuthorizer())
	add(devices, "v1", "DeviceClass", "deviceclasses", deviceclass.Strategy, nil)
	add(devices, "v1", "DeviceTaintRule", "devicetaintrules", devicetaintrule.Strategy, parts{"status": devicetaintrule.StatusStrategy})
	add(devices, "v1", "ResourceClaim", "resourceclaims", claims, parts{"status": resourceclaim.NewStatusStrategy(claims)})
	add(devices, "v1", "ResourceClaimTemplate", "resourceclaimtemplates", resourceclaimtemplate.NewStrategy(trusted{}), nil)
	add(devices, "v1", "ResourceSlice", "resourceslices", resourceslice.Strategy, nil)
	apiregistration.Install(legacyscheme.Scheme)
	const registration = "apiregistration.k8s.io"
	add(registration, "v1", "APIService", "apiservices", apiservice.NewStrategy(legacyscheme.Scheme), parts{"status": apiservice.NewStatusStrategy(legacyscheme.Scheme)})
	registered := out["APIService"]
	registered.printed = &apiservicestore.REST{}
	out["APIService"] = registered
	services := out["Service"]
	var err error
	services.begin, err = allocateServices()
	out["Service"] = services
	return out, err
}

// nobody is asked which resource is meant.
type nobody struct{}

func (nobody) Resolve(schema.GroupVersionKind) (schema.GroupVersionResource, error) {
	return schema.GroupVersionResource{}, nil
}

// trusted are namespaces that may have devices which are in use already.
type trusted struct {
	corev1client.NamespaceInterface
}

func (trusted) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Namespace, error) {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{resourcev1.DRAAdminNamespaceLabelKey: "true"}}}, nil
}
